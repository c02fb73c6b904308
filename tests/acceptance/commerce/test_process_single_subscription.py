"""`process_single_subscription`: two runs create one order; an unknown subscription is an error."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from demo.context import DemoContext
from stack import reference_app
from tests.integration.subscriptions.support import Shop

pytestmark = pytest.mark.stack
JOB = "process_single_subscription"


def test_a_subscription_is_renewed_once(context: DemoContext) -> None:
    reference_app.apply_schema(context.dsn)
    domain, today = context.domain("single"), datetime.now(UTC).date()
    with Shop(context.dsn, f"single-{context.tag}") as shop:
        one = shop.subscription(today, user_id=shop.user(email=f"ann@{domain}"))
        outcomes = []
        for name in ("first", "second"):
            run_id = context.run_id(f"single-{name}")
            context.airflow.trigger(JOB, {"subscription_id": one}, run_id)
            assert context.airflow.wait(JOB, run_id, 90)["state"] == "success"
            outcomes.append(context.airflow.xcom(JOB, run_id, JOB)["outcome"])
        assert outcomes == ["ordered", "not_due"]
        [order] = shop.orders(one)
        assert (order["state"], shop.product_of(one)["reserved"]) == ("reserved", 2)
    [arrival] = context.wait_for_emails(domain, 1)
    email = context.mail.get_email(arrival.id)
    assert order["number"] in email.text
    assert "€23.80" in email.text

    run_id = context.run_id("single-none")
    context.airflow.trigger(JOB, {"subscription_id": 2**40}, run_id)
    assert context.airflow.wait(JOB, run_id, 90)["state"] == "failed"
    assert f"there is no subscription {2**40}" in context.airflow.log(JOB, run_id, JOB)
