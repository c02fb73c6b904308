"""A shop's day: an order is paid and invoiced, a subscription renewed, and the books held against the provider's list."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from backline.demo.check import Check, Result, require, until
from backline.demo.sends import run_result
from backline.demo.world import World
from backline.reference_app import apply

ORDER, RENEWAL, RECONCILIATION = "process_order", "process_single_subscription", "reconcile_payments"
COLUMNS = ("id", "amount_minor", "currency", "status", "created_at", "order_id")


def checks() -> list[Check]:
    """In the order in which a shop does them."""
    shop = _Shop()
    return [
        Check("an order is paid", shop.paid, shop.open),
        Check("its invoice comes with the receipt", shop.invoiced),
        Check("a subscription is renewed", shop.renewed),
        Check("payments are reconciled", shop.reconciled),
    ]


class _Shop:
    """One customer, one product, and what is ordered of it."""

    def __init__(self) -> None:
        self._customer = self._product = self._order = self._subscription = 0

    def open(self, world: World) -> None:
        """Make them, start the order's run, and those of the subscription: one, and one too many."""
        apply(world.dsn)
        [made] = world.query("demo", "shop_customer", email=self._address(world), sku=f"CUPS-{world.tag}".upper())
        self._customer, self._product = made["customer"], made["product"]
        self._order = self._place(world, "1")["id"]
        world.airflow.trigger(ORDER, {"order_id": self._order}, world.run_id("order"))
        [made] = world.query("demo", "shop_subscription", customer=self._customer, product=self._product)
        self._subscription = made["id"]
        for name in ("renewal", "renewal-again"):
            world.airflow.trigger(RENEWAL, {"subscription_id": self._subscription}, world.run_id(name))

    def paid(self, world: World) -> Result:
        """The whole saga, and what the provider has of it."""
        result = run_result(world, ORDER, world.run_id("order"), "process")
        require(result["ended"] == "confirmed", f"the order ended {result['ended']}: {result['why']}")
        stands = self._stands(world)
        require((stands["state"], stands["payment"]) == ("confirmed", "captured"), f"its rows say {stands}")
        wanted = f"Order {self._number(world, '1')}"
        charges = [one["title"] for one in world.gateways.arrived("stripe", "*") if one["text"] == wanted]
        require(charges == ["charged 5831 eur"], f"the provider says: {', '.join(charges) or 'nothing'}")
        return Result("confirmed, 1 charge", "confirmed, 1 charge")

    def invoiced(self, world: World) -> Result:
        """Its number, its file, and the mail that brings it."""
        number = until(lambda: self._stands(world)["invoice"], "the order's invoice")
        file = world.stack.paths.home / "archive" / "invoices" / f"{number}.pdf"
        until(file.exists, f"the file {file}")
        letters = until(lambda: self._letters(world, number), "the mail with the invoice")
        require(len(letters) == 1, f"{len(letters)} mails have the invoice")
        return Result("1 mail, 1 PDF", f"1 mail, {number}")

    def renewed(self, world: World) -> Result:
        """Two runs at once: one order."""
        outcomes = [
            run_result(world, RENEWAL, world.run_id(name), "renew")["outcome"] for name in ("renewal", "renewal-again")
        ]
        require(sorted(outcomes) == ["not_due", "ordered"], f"the two runs ended {' and '.join(outcomes)}")
        return Result("1 order of 2 runs", "1 order of 2 runs")

    def reconciled(self, world: World) -> Result:
        """Money that the provider has and we did not know of is booked; a payment that nobody knows is told of."""
        order = self._place(world, "2", minutes=120)
        world.query("demo", "shop_reserve", id=order["id"], product=self._product)
        known, unknown = f"pi_known_{world.tag}", f"pi_unknown_{world.tag}"
        file = f"stripe_{world.tag}.csv"
        self._list(world.stack.paths.home / "archive" / "provider_lists" / file, order, known, unknown)
        run_id = world.run_id("books")
        world.airflow.trigger(RECONCILIATION, {"file": file, "days": 0.25}, run_id)
        report = run_result(world, RECONCILIATION, run_id, "reconcile")
        with Path(report["csv"]).open(encoding="utf-8", newline="") as opened:
            found = {(line["reference"], line["kind"], line["mended"]) for line in csv.DictReader(opened)}
        wanted = {(known, "status", "yes"), (unknown, "missing_here", "no")}
        require(wanted <= found, f"the report lacks {sorted(wanted - found)}", look=report["csv"])
        require(Path(report["pdf"]).exists(), f"there is no {report['pdf']}")
        return Result("1 mended, 1 told", "1 mended, 1 told, PDF")

    def _list(self, path: Path, order: dict[str, Any], known: str, unknown: str) -> None:
        common = (order["total_minor"], "eur", "succeeded", order["placed_at"].isoformat())
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8", newline="") as opened:
            csv.writer(opened).writerows([COLUMNS, (known, *common, order["id"]), (unknown, *common, "")])

    def _place(self, world: World, name: str, minutes: float = 0) -> dict[str, Any]:
        [order] = world.query(
            "demo", "shop_order", number=self._number(world, name), customer=self._customer, product=self._product,
            minutes=minutes,
        )  # fmt: skip
        return order

    def _number(self, world: World, name: str) -> str:
        return f"{world.tag}-{name}"

    def _stands(self, world: World) -> dict[str, Any]:
        [row] = world.query("demo", "shop_stands", id=self._order)
        return row

    def _letters(self, world: World, number: str) -> list[str]:
        arrived = world.mail.arrivals(self._address(world), world.since)
        return [one.subject for one in arrived if number in world.mail.open(one.id).text]

    def _address(self, world: World) -> str:
        # Not of the demo's own domains: how often a customer is written to is the jobs' to say.
        return f"ann@shop-{world.tag}.example.com"
