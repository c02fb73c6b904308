"""Commerce jobs: an order is paid and invoiced, a subscription is renewed, payments are compared with the provider's."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from demo.check import Check, Result, require, wait_until
from demo.context import DemoContext
from demo.send_runs import run_result
from stack.reference_app import apply_schema

ORDER_DAG, RENEWAL_DAG, RECONCILIATION_DAG = "process_order", "process_single_subscription", "reconcile_payments"
STATEMENT_COLUMNS = ("id", "amount_minor", "currency", "status", "created_at", "order_id")


def checks() -> list[Check]:
    """The checks, in the order of a shop's day."""
    shop = _ShopScenario()
    return [
        Check("an order is paid", shop.check_paid, shop.prepare),
        Check("its invoice comes with the receipt", shop.check_invoiced),
        Check("a subscription is renewed", shop.check_renewed),
        Check("payments are reconciled", shop.check_reconciled),
    ]


class _ShopScenario:
    """One customer, one product, and its orders."""

    def __init__(self) -> None:
        self._customer = self._product = self._order = self._subscription = 0

    def prepare(self, context: DemoContext) -> None:
        """Create them, start the order's run and two runs of the same subscription."""
        apply_schema(context.dsn)
        [customer] = context.query(
            "demo", "shop_customer_insert", email=self._customer_email(context), sku=f"CUPS-{context.tag}".upper()
        )
        self._customer, self._product = customer["customer"], customer["product"]
        self._order = self._place_order(context, "1")["id"]
        context.airflow.trigger(ORDER_DAG, {"order_id": self._order}, context.run_id("order"))
        [subscription] = context.query(
            "demo", "shop_subscription_insert", customer=self._customer, product=self._product
        )
        self._subscription = subscription["id"]
        for name in ("renewal", "renewal-again"):
            context.airflow.trigger(RENEWAL_DAG, {"subscription_id": self._subscription}, context.run_id(name))

    def check_paid(self, context: DemoContext) -> Result:
        """The order is confirmed, and the provider has one charge."""
        result = run_result(context, ORDER_DAG, context.run_id("order"), "process_order")
        require(result["outcome"] == "confirmed", f"the outcome is {result['outcome']}: {result['reason']}")
        status = self._order_status(context)
        require((status["state"], status["payment"]) == ("confirmed", "captured"), f"its rows are {status}")
        expected = f"Order {self._order_number(context, '1')}"
        charges = [one["title"] for one in context.gateways.received("stripe", "*") if one["text"] == expected]
        require(charges == ["charged 5831 eur"], f"the provider's charges: {', '.join(charges) or 'none'}")
        return Result("confirmed, 1 charge", "confirmed, 1 charge")

    def check_invoiced(self, context: DemoContext) -> Result:
        """The invoice has a number, a PDF file, and is mailed once."""
        number = wait_until(lambda: self._order_status(context)["invoice"], "the order's invoice")
        file = context.stack.paths.home / "archive" / "invoices" / f"{number}.pdf"
        wait_until(file.exists, f"the file {file}")
        subjects = wait_until(lambda: self._invoice_subjects(context, number), "the email with the invoice")
        require(len(subjects) == 1, f"{len(subjects)} emails have the invoice instead of 1")
        return Result("1 email, 1 PDF", f"1 email, {number}")

    def check_renewed(self, context: DemoContext) -> Result:
        """Two runs at the same time create one order."""
        outcomes = [
            run_result(context, RENEWAL_DAG, context.run_id(name), "process_single_subscription")["outcome"]
            for name in ("renewal", "renewal-again")
        ]
        require(sorted(outcomes) == ["not_due", "ordered"], f"the two runs returned {' and '.join(outcomes)}")
        return Result("2 runs, 1 order", "2 runs, 1 order")

    def check_reconciled(self, context: DemoContext) -> Result:
        """A captured payment that is pending here is fixed; a payment without an order is reported."""
        order = self._place_order(context, "2", minutes=120)
        context.query("demo", "shop_stock_reserve", id=order["id"], product=self._product)
        known, unknown = f"pi_known_{context.tag}", f"pi_unknown_{context.tag}"
        file = f"stripe_{context.tag}.csv"
        self._write_statement(context.stack.paths.home / "archive" / "provider_lists" / file, order, known, unknown)
        run_id = context.run_id("books")
        context.airflow.trigger(RECONCILIATION_DAG, {"file": file, "days": 0.25}, run_id)
        report = run_result(context, RECONCILIATION_DAG, run_id, "reconcile_payments")
        with Path(report["csv"]).open(encoding="utf-8", newline="") as opened:
            found = {(line["reference"], line["kind"], line["fixed"]) for line in csv.DictReader(opened)}
        expected = {(known, "status", "yes"), (unknown, "missing_here", "no")}
        require(expected <= found, f"the report lacks {sorted(expected - found)}", hint=report["csv"])
        require(Path(report["pdf"]).exists(), f"{report['pdf']} does not exist")
        return Result("1 fixed, 1 reported", "1 fixed, 1 reported, PDF")

    def _write_statement(self, path: Path, order: dict[str, Any], known: str, unknown: str) -> None:
        common = (order["total_minor"], "eur", "succeeded", order["placed_at"].isoformat())
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8", newline="") as opened:
            csv.writer(opened).writerows([STATEMENT_COLUMNS, (known, *common, order["id"]), (unknown, *common, "")])

    def _place_order(self, context: DemoContext, name: str, minutes: float = 0) -> dict[str, Any]:
        [order] = context.query(
            "demo", "shop_order_insert", number=self._order_number(context, name), customer=self._customer, product=self._product,
            minutes=minutes,
        )  # fmt: skip
        return order

    def _order_number(self, context: DemoContext, name: str) -> str:
        return f"{context.tag}-{name}"

    def _order_status(self, context: DemoContext) -> dict[str, Any]:
        [row] = context.query("demo", "shop_order_status", id=self._order)
        return row

    def _invoice_subjects(self, context: DemoContext, number: str) -> list[str]:
        arrived = context.mail.list_emails(self._customer_email(context), context.since)
        return [one.subject for one in arrived if number in context.mail.get_email(one.id).text]

    def _customer_email(self, context: DemoContext) -> str:
        # Not one of the demo's own domains, as the jobs decide how many emails a customer gets.
        return f"ann@shop-{context.tag}.example.com"
