"""`send_renewal_reminders`: one reminder of a renewal that is due tomorrow."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from demo.context import DemoContext
from stack import reference_app
from tests.integration.subscriptions.support import Shop

pytestmark = pytest.mark.stack
JOB = "send_renewal_reminders"


def test_an_owner_is_reminded_once(context: DemoContext) -> None:
    reference_app.apply_schema(context.dsn)
    domain, today = context.domain("reminders"), datetime.now(UTC).date()
    with Shop(context.dsn, f"reminders-{context.tag}") as shop:
        for name, days in (("tomorrow", 1), ("today", 0), ("later", 2)):
            shop.subscription(today + timedelta(days=days), user_id=shop.user(email=f"{name}@{domain}"))
        for name in ("first", "second"):
            run_id = context.run_id(f"reminders-{name}")
            context.airflow.trigger(JOB, {}, run_id)
            assert context.airflow.wait(JOB, run_id, 90)["state"] == "success"
    [arrival] = context.wait_for_emails(domain, 1)
    email = context.mail.get_email(arrival.id)
    assert email.recipients == (f"tomorrow@{domain}",)
    assert email.subject.startswith("Coffee beans, 1 kg renews on ")
    assert "€23.80" in email.text
