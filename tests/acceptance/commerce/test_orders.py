"""The jobs about orders: processing, the sweep of unfinished ones, reminders, and matching with suppliers."""

from __future__ import annotations

from typing import Any

import pytest

from demo.context import DemoContext
from tests.acceptance.commerce.payments import PaymentStack, paid_stack
from tests.integration.payments.support import CARD_NEEDS_AUTHENTICATION, CARD_STOLEN, CARD_VALID

pytestmark = pytest.mark.stack


def ran(context: DemoContext, job: str, task: str, name: str, conf: dict[str, Any]) -> dict[str, Any]:
    """What a job's task returned."""
    run_id = context.run_id(name)
    context.airflow.trigger(job, conf, run_id)
    assert context.airflow.wait(job, run_id, 120)["state"] == "success"
    found: dict[str, Any] = context.airflow.xcom(job, run_id, task)
    return found


def order(paid: PaymentStack, name: str, method: str) -> int:
    user = paid.shop.user(f"{name}@{paid.context.domain('orders')}")
    return paid.shop.order(method, user=user, state="pending")


def received_subjects(context: DemoContext, name: str, count: int) -> list[str]:
    """The subjects of what a customer got, once there are so many."""
    arrivals = context.wait_for_emails(context.domain("orders"), count)
    return sorted(one.subject for one in arrivals if one.recipients[0].startswith(f"{name}@"))


def age(paid: PaymentStack, order_id: int, hours: int) -> None:
    paid.shop.execute(
        "UPDATE app.orders SET placed_at = placed_at - a, reserved_at = reserved_at - a"
        " FROM make_interval(hours => %s) AS a WHERE id = %s", hours, order_id,
    )  # fmt: skip


def test_orders_are_processed_resumed_and_reminded_of(context: DemoContext, stack_exports: dict[str, str]) -> None:
    with paid_stack(context, stack_exports) as paid:
        good, refused, waiting, stopped = (
            order(paid, name, method)
            for name, method in (
                ("good", CARD_VALID),
                ("refused", CARD_STOLEN),
                ("waiting", CARD_NEEDS_AUTHENTICATION),
                ("stopped", CARD_VALID),
            )
        )
        for name, order_id, state, outcome in (
            ("good", good, "confirmed", "confirmed"),
            ("again", good, "confirmed", "nothing_to_do"),
            ("refused", refused, "cancelled", "cancelled"),
            ("waiting", waiting, "reserved", "waiting"),
        ):
            result = ran(context, "process_order", "process_order", name, {"order_id": order_id})
            assert (result["state"], result["outcome"]) == (state, outcome)
        assert paid.charges(good) == ["charged 2380 eur"]
        assert paid.charges(refused) == []

        age(paid, stopped, 1)
        result = ran(context, "process_pending_orders", "process_pending_orders", "pending", {})
        assert result["orders"]["outcomes"]["confirmed"] >= 1
        assert paid.shop.state(stopped) == ("confirmed", "captured")
        assert paid.shop.state(waiting) == ("reserved", "requires_action")

        age(paid, waiting, 25)
        for name in ("remind", "remind-again"):
            ran(context, "send_order_reminders", "send_order_reminders", name, {})
        # Confirmation and receipt; declined and cancelled; what to do and its reminder; confirmation and receipt.
        for name in ("good", "refused", "waiting", "stopped"):
            assert len(received_subjects(context, name, 8)) == 2
        assert "Your order is waiting for payment" in {
            subject.partition(" (")[0] for subject in received_subjects(context, "waiting", 8)
        }
        assert paid.shop.execute("SELECT stage::text FROM app.order_reminders WHERE order_id = %s", waiting) == [
            {"stage": "payment_missing"}
        ]


def test_purchase_orders_are_matched_and_each_choice_is_explained(
    context: DemoContext, stack_exports: dict[str, str]
) -> None:
    with paid_stack(context, stack_exports) as paid:
        product = paid.shop.product()
        paid.shop.execute(
            "WITH s AS (INSERT INTO app.suppliers (name, email, regions, quality, capacity) VALUES"
            " (%s, 'potter@example.com', '{DE}', 0.9, 100), (%s, 'weaver@example.com', '{DE}', 0.5, 100) RETURNING id)"
            " INSERT INTO app.offers (supplier_id, product_id, unit_price_minor, currency, quantity, lead_days, valid)"
            " SELECT id, %s, 400, 'EUR', 50, 3, tstzrange(now() - interval '1 day', NULL) FROM s",
            f"Potter {context.tag}", f"Weaver {context.tag}", product,
        )  # fmt: skip
        made = [
            row["id"]
            for row in paid.shop.execute(
                "INSERT INTO app.purchase_orders (product_id, quantity, region, currency, needed_by)"
                " SELECT %s, quantity, 'DE', 'EUR', current_date + 9 FROM unnest(ARRAY[40, 30, 60]) AS quantity RETURNING id",
                product,
            )
        ]
        find = (
            "SELECT a.purchase_order_id AS id, s.name, a.explanation FROM app.allocations AS a"
            " JOIN app.offers AS o ON o.id = a.offer_id JOIN app.suppliers AS s ON s.id = o.supplier_id"
            " WHERE a.purchase_order_id = ANY (%s) ORDER BY 1"
        )
        dry = ran(context, "match_orders", "match_orders", "dry", {"dry_run": True})
        assert dry["allocated"] >= 2
        assert paid.shop.execute(find, made) == []
        report = ran(context, "match_orders", "match_orders", "match", {})
        assert report["unmatched"] >= 1
        found = paid.shop.execute(find, made)
        # Each takes the better one that still has room; 60 are more than either offers.
        assert {row["id"] for row in found} == set(made[:2])
        assert {row["name"].split()[0] for row in found} == {"Potter", "Weaver"}
        assert all(row["explanation"] for row in found)
        over = (
            "SELECT o.id FROM app.offers AS o JOIN app.allocations AS a ON a.offer_id = o.id GROUP BY o.id"
            " HAVING sum(a.quantity) > o.quantity"
        )
        assert paid.shop.execute(over) == []
