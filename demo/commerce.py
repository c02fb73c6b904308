"""A shop's day: an order is paid and invoiced, a subscription renewed, and the books held against the provider's list."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from backline.reference_app import apply_schema
from demo.check import Check, Result, require, wait_until
from demo.context import DemoContext
from demo.send_runs import run_result

ORDER_DAG, RENEWAL_DAG, RECONCILIATION_DAG = "process_order", "process_single_subscription", "reconcile_payments"
STATEMENT_COLUMNS = ("id", "amount_minor", "currency", "status", "created_at", "order_id")


def checks() -> list[Check]:
    """In the order in which a shop does them."""
    shop = _ShopScenario()
    return [
        Check("an order is paid", shop.check_paid, shop.prepare),
        Check("its invoice comes with the receipt", shop.check_invoiced),
        Check("a subscription is renewed", shop.check_renewed),
        Check("payments are reconciled", shop.check_reconciled),
    ]


class _ShopScenario:
    """One customer, one product, and what is ordered of it."""

    def __init__(self) -> None:
        self._customer = self._product = self._order = self._subscription = 0

    def prepare(self, world: DemoContext) -> None:
        """Make them, start the order's run, and those of the subscription: one, and one too many."""
        apply_schema(world.dsn)
        [made] = world.query(
            "demo", "shop_customer_insert", email=self._customer_email(world), sku=f"CUPS-{world.tag}".upper()
        )
        self._customer, self._product = made["customer"], made["product"]
        self._order = self._place_order(world, "1")["id"]
        world.airflow.trigger(ORDER_DAG, {"order_id": self._order}, world.run_id("order"))
        [made] = world.query("demo", "shop_subscription_insert", customer=self._customer, product=self._product)
        self._subscription = made["id"]
        for name in ("renewal", "renewal-again"):
            world.airflow.trigger(RENEWAL_DAG, {"subscription_id": self._subscription}, world.run_id(name))

    def check_paid(self, world: DemoContext) -> Result:
        """The whole saga, and what the provider has of it."""
        result = run_result(world, ORDER_DAG, world.run_id("order"), "process")
        require(result["ended"] == "confirmed", f"the order ended {result['ended']}: {result['why']}")
        stands = self._order_status(world)
        require((stands["state"], stands["payment"]) == ("confirmed", "captured"), f"its rows say {stands}")
        wanted = f"Order {self._order_number(world, '1')}"
        charges = [one["title"] for one in world.gateways.received("stripe", "*") if one["text"] == wanted]
        require(charges == ["charged 5831 eur"], f"the provider says: {', '.join(charges) or 'nothing'}")
        return Result("confirmed, 1 charge", "confirmed, 1 charge")

    def check_invoiced(self, world: DemoContext) -> Result:
        """Its number, its file, and the mail that brings it."""
        number = wait_until(lambda: self._order_status(world)["invoice"], "the order's invoice")
        file = world.stack.paths.home / "archive" / "invoices" / f"{number}.pdf"
        wait_until(file.exists, f"the file {file}")
        letters = wait_until(lambda: self._invoice_subjects(world, number), "the mail with the invoice")
        require(len(letters) == 1, f"{len(letters)} mails have the invoice")
        return Result("1 mail, 1 PDF", f"1 mail, {number}")

    def check_renewed(self, world: DemoContext) -> Result:
        """Two runs at once: one order."""
        outcomes = [
            run_result(world, RENEWAL_DAG, world.run_id(name), "renew")["outcome"]
            for name in ("renewal", "renewal-again")
        ]
        require(sorted(outcomes) == ["not_due", "ordered"], f"the two runs ended {' and '.join(outcomes)}")
        return Result("1 order of 2 runs", "1 order of 2 runs")

    def check_reconciled(self, world: DemoContext) -> Result:
        """Money that the provider has and we did not know of is booked; a payment that nobody knows is told of."""
        order = self._place_order(world, "2", minutes=120)
        world.query("demo", "shop_stock_reserve", id=order["id"], product=self._product)
        known, unknown = f"pi_known_{world.tag}", f"pi_unknown_{world.tag}"
        file = f"stripe_{world.tag}.csv"
        self._write_statement(world.stack.paths.home / "archive" / "provider_lists" / file, order, known, unknown)
        run_id = world.run_id("books")
        world.airflow.trigger(RECONCILIATION_DAG, {"file": file, "days": 0.25}, run_id)
        report = run_result(world, RECONCILIATION_DAG, run_id, "reconcile_payments")
        with Path(report["csv"]).open(encoding="utf-8", newline="") as opened:
            found = {(line["reference"], line["kind"], line["fixed"]) for line in csv.DictReader(opened)}
        wanted = {(known, "status", "yes"), (unknown, "missing_here", "no")}
        require(wanted <= found, f"the report lacks {sorted(wanted - found)}", hint=report["csv"])
        require(Path(report["pdf"]).exists(), f"there is no {report['pdf']}")
        return Result("1 mended, 1 told", "1 mended, 1 told, PDF")

    def _write_statement(self, path: Path, order: dict[str, Any], known: str, unknown: str) -> None:
        common = (order["total_minor"], "eur", "succeeded", order["placed_at"].isoformat())
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8", newline="") as opened:
            csv.writer(opened).writerows([STATEMENT_COLUMNS, (known, *common, order["id"]), (unknown, *common, "")])

    def _place_order(self, world: DemoContext, name: str, minutes: float = 0) -> dict[str, Any]:
        [order] = world.query(
            "demo", "shop_order_insert", number=self._order_number(world, name), customer=self._customer, product=self._product,
            minutes=minutes,
        )  # fmt: skip
        return order

    def _order_number(self, world: DemoContext, name: str) -> str:
        return f"{world.tag}-{name}"

    def _order_status(self, world: DemoContext) -> dict[str, Any]:
        [row] = world.query("demo", "shop_order_status", id=self._order)
        return row

    def _invoice_subjects(self, world: DemoContext, number: str) -> list[str]:
        arrived = world.mail.list_emails(self._customer_email(world), world.since)
        return [one.subject for one in arrived if number in world.mail.get_email(one.id).text]

    def _customer_email(self, world: DemoContext) -> str:
        # Not of the demo's own domains: how often a customer is written to is the jobs' to say.
        return f"ann@shop-{world.tag}.example.com"
