"""`process_due_subscriptions`: each due subscription gets its order, and its customer the confirmation."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from demo.context import DemoContext
from stack import reference_app
from tests.integration.subscriptions.support import Shop

pytestmark = pytest.mark.stack
JOB = "process_due_subscriptions"


def test_due_subscriptions_are_renewed_with_a_confirmation(context: DemoContext) -> None:
    reference_app.apply_schema(context.dsn)
    domain, today = context.domain("due"), datetime.now(UTC).date()
    with Shop(context.dsn, f"due-{context.tag}") as shop:
        one, other, skipped = (shop.user(email=f"{name}@{domain}") for name in ("one", "other", "skipped"))
        due = [shop.subscription(today, user_id=one), shop.subscription(today, user_id=other)]
        left_out = shop.subscription(today, user_id=skipped, skip_next=True)
        empty = shop.subscription(today, user_id=shop.user(email=f"late@{domain}"), product_id=shop.product(stock=0))
        run_id = context.run_id("due")
        context.airflow.trigger(JOB, {}, run_id)
        assert context.airflow.wait(JOB, run_id, 120)["state"] == "success"

        for subscription in due:
            [order] = shop.orders(subscription)
            assert (order["state"], order["cycle_on"], order["total_minor"]) == ("reserved", today, 2380)
            assert shop.row(subscription)["next_on"] > today
        assert shop.orders(left_out) == shop.orders(empty) == []
        assert shop.row(left_out)["next_on"] > today
        assert (shop.row(empty)["next_on"], shop.row(empty)["retry_on"] is not None) == (today, True)
        result = context.airflow.xcom(JOB, run_id, "summarize")["subscriptions"]
        expected = (("ordered", 2), ("skipped", 1), ("deferred", 1))
        assert [name for name, count in expected if result["outcomes"][name] < count] == []
        assert result["failed"] == 0
        numbers = {
            f"{name}@{domain}": shop.orders(made)[0]["number"] for name, made in zip(("one", "other"), due, strict=True)
        }

        again = context.run_id("due-again")
        context.airflow.trigger(JOB, {}, again)
        assert context.airflow.wait(JOB, again, 120)["state"] == "success"
        assert [len(shop.orders(subscription)) for subscription in due] == [1, 1]

    letters = [context.mail.get_email(arrival.id) for arrival in context.wait_for_emails(domain, 3)]
    emails = {letter.recipients[0]: letter for letter in letters}
    assert set(emails) == {*numbers, f"late@{domain}"}
    for recipient, number in numbers.items():
        assert number in emails[recipient].text
    assert emails[f"late@{domain}"].subject == "Coffee beans, 1 kg is out of stock for the moment"
