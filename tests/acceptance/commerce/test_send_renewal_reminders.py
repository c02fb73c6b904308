"""`send_renewal_reminders`: who renews tomorrow reads of it once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from backline import reference_app
from backline.demo.world import World
from tests.integration.subscriptions.support import Shop

pytestmark = pytest.mark.stack
JOB = "send_renewal_reminders"


def test_tomorrows_renewal_is_announced_once(world: World) -> None:
    reference_app.apply(world.dsn)
    domain, today = world.domain("reminders"), datetime.now(UTC).date()
    with Shop(world.dsn, f"reminders-{world.tag}") as shop:
        for name, days in (("tomorrow", 1), ("today", 0), ("later", 2)):
            shop.subscription(today + timedelta(days=days), user_id=shop.person(email=f"{name}@{domain}"))
        for name in ("first", "second"):
            run_id = world.run_id(f"reminders-{name}")
            world.airflow.trigger(JOB, {}, run_id)
            assert world.airflow.wait(JOB, run_id, 90)["state"] == "success"
    [arrival] = world.wait_arrived(domain, 1)
    letter = world.mail.open(arrival.id)
    assert letter.recipients == (f"tomorrow@{domain}",)
    assert letter.subject.startswith("Coffee beans, 1 kg renews on ")
    assert "€23.80" in letter.text
