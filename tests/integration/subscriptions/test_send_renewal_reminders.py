"""send_renewal_reminders: one day ahead in the subscription's zone, once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import date, datetime, timedelta
from typing import Any

import pytest

from backline.errors import DatabaseFailure
from backline.messages import registry
from backline.subscriptions.rules import RenewalOutcome
from backline.subscriptions.send_renewal_reminders import send_renewal_reminders
from backline.subscriptions.settings import SubscriptionSettings
from tests.integration.job_factory import create_job
from tests.integration.subscriptions.support import CONFIG, NOW, TODAY, Shop

TOMORROW = TODAY + timedelta(days=1)
KIND = "subscription_renewal_reminder"


def remind(shop: Shop, now: datetime = NOW, config: SubscriptionSettings = CONFIG) -> dict[str, Any]:
    result: dict[str, Any] = create_job(shop.dsn, config, now=now).execute(send_renewal_reminders)
    return result


def reminded(shop: Shop, now: datetime = NOW, config: SubscriptionSettings = CONFIG) -> int:
    count: int = remind(shop, now, config)["outcomes"].get("reminded", 0)
    return count


def test_an_owner_is_reminded_once(shop: Shop) -> None:
    one = shop.subscription(TOMORROW, user_id=shop.user(language="de"))
    for day in (TODAY, TOMORROW + timedelta(days=1)):
        shop.subscription(day)
    assert remind(shop)["outcomes"] == {"reminded": 1}
    [message] = shop.messages(KIND)
    assert message["recipient"] == "shop-1@shop.example.com"
    payload = message["payload"]
    registry.get(KIND).parse(payload).rendered()  # type: ignore[attr-defined]
    assert (payload["renews_on"], payload["amount"], payload["currency"]) == ("2026-03-02", 2380, "EUR")
    assert shop.row(one)["reminded_cycle_on"] == TOMORROW
    assert remind(shop)["done"] == 0
    assert len(shop.messages(KIND)) == 1


def test_the_amount_is_that_of_the_order_to_come(shop: Shop) -> None:
    one = shop.subscription(TOMORROW, new_price_minor=1500, new_price_from=TOMORROW)
    remind(shop)
    shop.renew(one, NOW + timedelta(days=1))
    [message], [order] = shop.messages(KIND), shop.orders(one)
    assert message["payload"]["amount"] == order["total_minor"] == 3570


@pytest.mark.parametrize(
    ("zone", "now", "expected"),
    [
        ("America/Los_Angeles", "2026-03-01T07:59Z", 0),  # there it is still the day before
        ("America/Los_Angeles", "2026-03-01T08:00Z", 1),
        ("America/Los_Angeles", "2026-03-02T07:59Z", 1),
        ("America/Los_Angeles", "2026-03-02T08:00Z", 0),  # there it is today
        ("Pacific/Kiritimati", "2026-02-28T10:00Z", 1),
        ("Pacific/Kiritimati", "2026-03-01T10:00Z", 0),
    ],
)
def test_tomorrow_is_in_the_subscriptions_zone(shop: Shop, zone: str, now: str, expected: int) -> None:
    shop.subscription(TOMORROW, zone=zone)
    assert reminded(shop, datetime.fromisoformat(now)) == expected


def test_a_subscription_without_a_next_order_gets_no_reminder(shop: Shop) -> None:
    shop.subscription(TOMORROW, skip_next=True)
    shop.subscription(TOMORROW, state="paused", paused_at="2025-11-20")
    shop.subscription(TOMORROW, state="paused", paused_at="2025-11-20", resume_on=TOMORROW + timedelta(days=1))
    shop.subscription(TOMORROW, product_id=shop.product(retired_at=NOW))
    gone = shop.user(state="deactivated", deactivated_at=NOW)
    shop.subscription(TOMORROW, user_id=gone)
    assert reminded(shop) == 0
    assert shop.messages(KIND) == []


def test_a_pause_that_ends_by_then_gets_a_reminder(shop: Shop) -> None:
    one = shop.subscription(date(2025, 12, 2), state="paused", paused_at="2025-11-20", resume_on=TOMORROW)
    later = shop.subscription(date(2025, 12, 9), state="paused", paused_at="2025-11-20", resume_on=TOMORROW)
    assert remind(shop)["outcomes"] == {"reminded": 1, "not_due": 1}
    assert (shop.row(one)["state"], shop.row(one)["reminded_cycle_on"]) == ("paused", TOMORROW)
    assert shop.row(later)["next_on"] == date(2025, 12, 9)
    assert reminded(shop) == 0
    assert shop.renew(one, NOW + timedelta(days=1)).outcome is RenewalOutcome.ORDERED


def test_a_failure_affects_only_its_subscription(shop: Shop) -> None:
    bad = shop.subscription(TOMORROW, user_id=shop.user(email="a,b@example.com"))
    for _ in range(3):
        shop.subscription(TOMORROW)
    result = remind(shop)
    assert (result["outcomes"], result["failed"]) == ({"reminded": 3}, 1)
    assert result["failures"][0]["key"] == str(bad)
    assert shop.row(bad)["reminded_cycle_on"] is None
    assert remind(shop)["skipped"] == 1
    shop.sql("UPDATE app.users SET email = 'ab@example.com' WHERE email = 'a,b@example.com'")
    assert reminded(shop) == 1


def test_a_run_is_bounded(shop: Shop) -> None:
    for _ in range(3):
        shop.subscription(TOMORROW)
    config = SubscriptionSettings(reminder_batch_limit=2)
    assert [reminded(shop, config=config) for _ in range(3)] == [2, 1, 0]


def test_overlapping_runs_remind_once(shop: Shop) -> None:
    for _ in range(40):
        shop.subscription(TOMORROW)

    def run_until_it_succeeds(_: int) -> int:
        """As Airflow retries it: a run that finds the same row locked by the other one twice fails."""
        for _ in range(20):
            with suppress(DatabaseFailure):
                return reminded(shop)
        return -1

    with ThreadPoolExecutor(2) as pool:
        assert min(pool.map(run_until_it_succeeds, range(2))) >= 0
    assert len(shop.messages(KIND)) == 40
