"""`process_payment`: an order is charged at the provider once, is paid, and its customer gets one receipt."""

from __future__ import annotations

import pytest

from demo.context import DemoContext
from tests.acceptance.commerce.payments import paid_stack

pytestmark = pytest.mark.stack


def test_an_order_is_paid_and_its_receipt_arrives(context: DemoContext, stack_exports: dict[str, str]) -> None:
    with paid_stack(context, stack_exports) as paid:
        order = paid.order(name="receipts")
        for n in range(2):
            run_id = context.run_id(f"pay-{n}")
            context.airflow.trigger("process_payment", {"order_id": order}, run_id)
            assert context.airflow.wait("process_payment", run_id, 120)["state"] == "success"
            assert context.airflow.xcom("process_payment", run_id, "process_payment")["state"] == "paid"
        assert paid.charges(order) == ["charged 2380 eur"]
        assert paid.shop.state(order) == ("paid", "captured")
        [arrival] = context.wait_for_emails(context.domain("receipts"), 1)
        assert "23.80" in context.mail.get_email(arrival.id).text


def test_a_declined_customer_gets_a_link_to_pay(context: DemoContext, stack_exports: dict[str, str]) -> None:
    with paid_stack(context, stack_exports) as paid:
        order = paid.order("pm_card_chargeDeclinedExpiredCard", name="declines")
        context.airflow.trigger("process_payment", {"order_id": order}, context.run_id("declined"))
        assert context.airflow.wait("process_payment", context.run_id("declined"), 120)["state"] == "success"
        assert paid.shop.state(order) == ("reserved", "abandoned")
        assert paid.charges(order) == []
        [arrival] = context.wait_for_emails(context.domain("declines"), 1)
        assert "/orders/" in context.mail.get_email(arrival.id).text


def test_a_lost_answer_is_settled_by_the_jobs_own_retry(context: DemoContext, stack_exports: dict[str, str]) -> None:
    with paid_stack(context, stack_exports) as paid:
        order = paid.order()
        paid.faults({"recipient": "confirm", "action": "drop", "after": True, "times": 1})
        context.airflow.trigger("process_payment", {"order_id": order}, context.run_id("lost"))
        assert context.airflow.wait("process_payment", context.run_id("lost"), 120)["state"] == "success"
        assert context.airflow.task("process_payment", context.run_id("lost"), "process_payment")["try_number"] == 2
        assert paid.charges(order) == ["charged 2380 eur"]
        assert paid.shop.state(order) == ("paid", "captured")
