"""Reminders: tomorrow, on the calendar of the subscription's zone, once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime, timedelta

import pytest

from backline.db.connect import session
from backline.messages import registry
from backline.subscriptions.process_due_subscriptions import BatchResult
from backline.subscriptions.renewal import RenewalOutcome
from backline.subscriptions.send_renewal_reminders import send_reminders
from backline.subscriptions.settings import SubscriptionSettings
from tests.integration.subscriptions.support import CONFIG, NOW, TODAY, Shop

TOMORROW = TODAY + timedelta(days=1)
KIND = "subscription_renewal_reminder"


def remind(shop: Shop, now: datetime = NOW, config: SubscriptionSettings = CONFIG) -> BatchResult:
    return send_reminders(shop.connection, now, config)


def test_tomorrows_renewal_is_announced_once(shop: Shop) -> None:
    one = shop.subscription(TOMORROW, user_id=shop.user(language="de"))
    for day in (TODAY, TOMORROW + timedelta(days=1)):
        shop.subscription(day)
    assert remind(shop).outcomes == {"reminded": 1}
    [message] = shop.messages(KIND)
    assert message["recipient"] == "shop-1@shop.example.com"
    payload = message["payload"]
    registry.get(KIND).parse(payload).rendered()  # type: ignore[attr-defined]
    assert (payload["renews_on"], payload["amount"], payload["currency"]) == ("2026-03-02", 2380, "EUR")
    assert shop.row(one)["reminded_cycle_on"] == TOMORROW
    assert remind(shop).total == 0
    assert len(shop.messages(KIND)) == 1


def test_the_amount_is_that_of_the_order_to_come(shop: Shop) -> None:
    one = shop.subscription(TOMORROW, new_price_minor=1500, new_price_from=TOMORROW)
    remind(shop)
    shop.renew(one, NOW + timedelta(days=1))
    [message], [order] = shop.messages(KIND), shop.orders(one)
    assert message["payload"]["amount"] == order["total_minor"] == 3570


@pytest.mark.parametrize(
    ("zone", "now", "reminded"),
    [
        ("America/Los_Angeles", "2026-03-01T07:59Z", 0),  # there it is still the day before
        ("America/Los_Angeles", "2026-03-01T08:00Z", 1),
        ("America/Los_Angeles", "2026-03-02T07:59Z", 1),
        ("America/Los_Angeles", "2026-03-02T08:00Z", 0),  # there it is today
        ("Pacific/Kiritimati", "2026-02-28T10:00Z", 1),
        ("Pacific/Kiritimati", "2026-03-01T10:00Z", 0),
    ],
)
def test_tomorrow_is_that_of_its_own_zone(shop: Shop, zone: str, now: str, reminded: int) -> None:
    shop.subscription(TOMORROW, zone=zone)
    assert remind(shop, datetime.fromisoformat(now)).outcomes.total() == reminded


def test_who_gets_no_order_is_not_reminded(shop: Shop) -> None:
    shop.subscription(TOMORROW, skip_next=True)
    shop.subscription(TOMORROW, state="paused", paused_at="2025-11-20")
    shop.subscription(TOMORROW, state="paused", paused_at="2025-11-20", resume_on=TOMORROW + timedelta(days=1))
    shop.subscription(TOMORROW, product_id=shop.product(retired_at=NOW))
    gone = shop.user(state="deactivated", deactivated_at=NOW)
    shop.subscription(TOMORROW, user_id=gone)
    assert remind(shop).outcomes["reminded"] == 0
    assert shop.messages(KIND) == []


def test_a_pause_that_ends_by_then_is_no_reason_to_be_silent(shop: Shop) -> None:
    one = shop.subscription(date(2025, 12, 2), state="paused", paused_at="2025-11-20", resume_on=TOMORROW)
    later = shop.subscription(date(2025, 12, 9), state="paused", paused_at="2025-11-20", resume_on=TOMORROW)
    assert remind(shop).outcomes == {"reminded": 1, "not_due": 1}
    assert (shop.row(one)["state"], shop.row(one)["reminded_cycle_on"]) == ("paused", TOMORROW)
    assert shop.row(later)["next_on"] == date(2025, 12, 9)
    assert remind(shop).outcomes["reminded"] == 0
    assert shop.renew(one, NOW + timedelta(days=1)).outcome is RenewalOutcome.ORDERED


def test_one_failure_harms_only_itself(shop: Shop) -> None:
    bad = shop.subscription(TOMORROW, user_id=shop.user(email="a,b@example.com"))
    for _ in range(3):
        shop.subscription(TOMORROW)
    tally = remind(shop)
    assert (tally.outcomes, tally.failed) == ({"reminded": 3}, 1)
    assert tally.failures[0]["subscription"] == bad
    assert shop.row(bad)["reminded_cycle_on"] is None


def test_a_run_has_its_bound(shop: Shop) -> None:
    for _ in range(3):
        shop.subscription(TOMORROW)
    config = SubscriptionSettings(reminder_batch_limit=2)
    assert [remind(shop, config=config).outcomes["reminded"] for _ in range(3)] == [2, 1, 0]


def test_two_runs_at_once_remind_once(shop: Shop) -> None:
    for _ in range(40):
        shop.subscription(TOMORROW)

    def work(_: int) -> BatchResult:
        with session(shop.dsn, name="reminders") as connection:
            return send_reminders(connection, NOW, CONFIG)

    with ThreadPoolExecutor(2) as pool:
        tallies = list(pool.map(work, range(2)))
    assert sum(tally.outcomes["reminded"] for tally in tallies) == 40
    assert len(shop.messages(KIND)) == 40
