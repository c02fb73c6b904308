"""The renewal of one subscription: all of it or nothing."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime, timedelta
from typing import Any

import psycopg
import pytest

from backline.db.connect import session
from backline.errors import DatabaseFailure, InvalidInput
from backline.messages import registry
from backline.subscriptions.process_single_subscription import Renewal, process_single_subscription, renew
from backline.subscriptions.rules import RenewalOutcome
from backline.subscriptions.settings import SubscriptionSettings
from stack.reference_app import invariant_violations
from tests.integration.job_factory import create_job
from tests.integration.subscriptions.support import CONFIG, LONG_AGO, NOW, TODAY, Shop

DAY = timedelta(days=1)


def test_a_due_subscription_gets_its_order(shop: Shop) -> None:
    owner = shop.user(
        name="Ann O'Hara", language="de", zone="Europe/Berlin", phone="+491511234567", channels="{sms,email}"
    )
    one = shop.subscription(user_id=owner, zone="Europe/Berlin")
    done = shop.renew(one)
    [order] = shop.orders(one)
    number = f"S-{one:08d}-20260301"
    assert done == Renewal(one, RenewalOutcome.ORDERED, TODAY, date(2026, 4, 1), order=number, order_id=order["id"])
    assert (order["number"], order["state"], order["cycle_on"], order["user_id"]) == (
        done.order,
        "reserved",
        TODAY,
        owner,
    )
    assert (order["net_minor"], order["tax_minor"], order["total_minor"], order["currency"]) == (2000, 380, 2380, "EUR")
    [line] = shop.sql("SELECT * FROM app.order_lines WHERE order_id = %s", order["id"])
    assert (line["description"], line["quantity"], line["unit_price_minor"], line["tax_rate"]) == (
        "Coffee beans, 1 kg",
        2,
        1000,
        1900,
    )
    moves = shop.sql("SELECT to_state FROM app.order_history WHERE order_id = %s ORDER BY id", order["id"])
    assert [move["to_state"] for move in moves] == ["pending", "reserved"]
    product = shop.product_of(one)
    assert (product["stock"], product["reserved"]) == (100, 2)
    assert shop.row(one)["next_on"] == date(2026, 4, 1)

    messages = shop.messages("order_confirmation")
    assert {message["channel"]: message["recipient"] for message in messages} == {
        "email": "shop-1@shop.example.com", "sms": "+491511234567",
    }  # fmt: skip
    [payload] = [message["payload"] for message in messages if message["channel"] == "email"]
    registry.get("order_confirmation").parse(payload)
    assert (payload["order"], payload["total"], payload["tax"], payload["language"]) == (done.order, 2380, 380, "de")
    assert payload["order_url"] == f"http://localhost:8080/orders/{done.order}"
    assert invariant_violations(shop.dsn) == {}


def test_two_runs_create_one_order(shop: Shop) -> None:
    one = shop.subscription()
    assert shop.renew(one).outcome is RenewalOutcome.ORDERED
    assert shop.renew(one) == Renewal(one, RenewalOutcome.NOT_DUE, next_on=date(2026, 4, 1))
    assert len(shop.orders(one)) == len(shop.messages("order_confirmation")) == 1
    assert shop.product_of(one)["reserved"] == 2


def test_a_cycle_that_has_its_order_only_advances(shop: Shop) -> None:
    one = shop.subscription()
    shop.renew(one)
    shop.sql("UPDATE app.subscriptions SET next_on = %s WHERE id = %s", TODAY, one)  # as if its date had not been moved
    done = shop.renew(one)
    assert (done.outcome, done.order, done.next_on) == (
        RenewalOutcome.ALREADY_ORDERED,
        f"S-{one:08d}-20260301",
        date(2026, 4, 1),
    )
    assert len(shop.orders(one)) == len(shop.messages("order_confirmation")) == 1
    assert shop.product_of(one)["reserved"] == 2


def test_a_locked_subscription_is_retried(shop: Shop) -> None:
    one = shop.subscription()
    with session(shop.dsn, name="other") as other:
        with other.transaction():
            assert renew(other, one, NOW, CONFIG).outcome is RenewalOutcome.ORDERED
            with pytest.raises(DatabaseFailure) as caught:
                shop.renew(one)
            assert caught.value.code == "55P03"
        assert shop.renew(one).outcome is RenewalOutcome.NOT_DUE
    assert len(shop.orders(one)) == 1


def test_overlapping_runs_create_one_order(shop: Shop) -> None:
    one = shop.subscription()

    def work(_: int) -> RenewalOutcome:
        with session(shop.dsn, name="one of many") as connection:
            while True:
                try:
                    return renew(connection, one, NOW, CONFIG).outcome
                except DatabaseFailure:
                    continue

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(work, range(16)))
    assert sorted(outcomes) == [*[RenewalOutcome.NOT_DUE] * 15, RenewalOutcome.ORDERED]
    assert len(shop.orders(one)) == len(shop.messages("order_confirmation")) == 1
    assert invariant_violations(shop.dsn) == {}


def test_the_last_piece_is_sold_once(shop: Shop) -> None:
    product = shop.product(stock=6)
    several = [shop.subscription(product_id=product) for _ in range(5)]

    def work(one: int) -> RenewalOutcome:
        with session(shop.dsn, name="one of many") as connection:
            return renew(connection, one, NOW, CONFIG).outcome

    with ThreadPoolExecutor(5) as pool:
        outcomes = list(pool.map(work, several))
    assert sorted(outcomes) == [RenewalOutcome.DEFERRED] * 2 + [RenewalOutcome.ORDERED] * 3
    product_row = shop.product_of(several[0])
    assert (product_row["stock"], product_row["reserved"]) == (6, 6)
    assert invariant_violations(shop.dsn) == {}


def test_an_out_of_stock_cycle_is_deferred_with_one_message(shop: Shop) -> None:
    one = shop.subscription(product_id=shop.product(stock=1))
    first = shop.renew(one)
    assert first == Renewal(
        one, RenewalOutcome.DEFERRED, TODAY, TODAY, TODAY + DAY, reason="Coffee beans, 1 kg is out of stock"
    )
    assert shop.renew(one).outcome is RenewalOutcome.NOT_DUE, "not before its day"
    shop.sql("UPDATE app.users SET name = 'Ann Other'")  # the content of the earlier message need not match
    assert shop.renew(one, NOW + DAY).retry_on == TODAY + 2 * DAY
    [message] = shop.messages("templated_email")
    assert message["recipient"].endswith("@shop.example.com")
    assert message["payload"]["context"]["product"] == "Coffee beans, 1 kg"
    registry.get("templated_email").parse(message["payload"]).rendered()  # type: ignore[attr-defined]
    assert shop.orders(one) == []
    assert shop.product_of(one)["reserved"] == 0

    shop.sql("UPDATE app.products SET stock = 10")
    shop.sql(
        "INSERT INTO app.stock_movements (product_id, reason, quantity) SELECT id, 'received', 9 FROM app.products"
    )
    done = shop.renew(one, NOW + 2 * DAY)
    assert (done.outcome, done.cycle_on, done.next_on) == (RenewalOutcome.ORDERED, TODAY, date(2026, 4, 1))
    row = shop.row(one)
    assert (row["next_on"], row["retry_on"]) == (date(2026, 4, 1), None)
    assert invariant_violations(shop.dsn) == {}


def test_reserved_stock_is_not_available(shop: Shop) -> None:
    one = shop.subscription(product_id=shop.product(stock=10, reserved=9))
    assert shop.renew(one).outcome is RenewalOutcome.DEFERRED


def test_the_days_of_a_deferral_are_a_setting(shop: Shop) -> None:
    one = shop.subscription(product_id=shop.product(stock=0))
    assert shop.renew(one, config=SubscriptionSettings(out_of_stock_retry_days=3)).retry_on == TODAY + 3 * DAY


def test_a_skipped_cycle_gets_no_order_and_the_next_does(shop: Shop) -> None:
    one = shop.subscription(skip_next=True)
    assert shop.renew(one) == Renewal(one, RenewalOutcome.SKIPPED, TODAY, date(2026, 4, 1))
    assert (shop.row(one)["skip_next"], shop.orders(one)) == (False, [])
    assert shop.renew(one, datetime.fromisoformat("2026-04-01T00:00Z")).outcome is RenewalOutcome.ORDERED


@pytest.mark.parametrize(
    ("changed", "outcome", "next_on"),
    [
        ({"resume_on": None}, RenewalOutcome.INACTIVE, date(2025, 12, 1)),
        ({"resume_on": TODAY + DAY}, RenewalOutcome.INACTIVE, date(2025, 12, 1)),
        ({"resume_on": TODAY}, RenewalOutcome.ORDERED, date(2026, 4, 1)),
        ({"resume_on": date(2026, 2, 15)}, RenewalOutcome.ORDERED, date(2026, 4, 1)),
    ],
)
def test_a_pause(shop: Shop, changed: dict[str, Any], outcome: RenewalOutcome, next_on: date) -> None:
    one = shop.subscription(date(2025, 12, 1), state="paused", paused_at="2025-11-20", **changed)
    assert shop.renew(one).outcome is outcome
    row = shop.row(one)
    assert (row["next_on"], row["state"] == "paused") == (next_on, outcome is RenewalOutcome.INACTIVE)
    assert [order["cycle_on"] for order in shop.orders(one)] == ([TODAY] if outcome is RenewalOutcome.ORDERED else [])


def test_a_pause_that_ends_before_the_next_cycle_only_ends(shop: Shop) -> None:
    one = shop.subscription(date(2026, 1, 15), state="paused", paused_at="2025-11-20", resume_on=TODAY)
    assert shop.renew(one) == Renewal(one, RenewalOutcome.RESUMED, date(2026, 3, 15), date(2026, 3, 15))
    row = shop.row(one)
    assert (row["state"], row["paused_at"], row["resume_on"], row["next_on"]) == (
        "active",
        None,
        None,
        date(2026, 3, 15),
    )


def test_a_new_price_is_valid_from_its_cycle_on(shop: Shop) -> None:
    one = shop.subscription(new_price_minor=1500, new_price_from=date(2026, 4, 1))
    shop.renew(one)
    assert (shop.row(one)["unit_price_minor"], shop.row(one)["new_price_minor"]) == (1000, 1500)
    shop.renew(one, datetime.fromisoformat("2026-04-01T00:00Z"))
    row = shop.row(one)
    assert (row["unit_price_minor"], row["new_price_minor"], row["new_price_from"]) == (1500, None, None)
    assert [order["net_minor"] for order in shop.orders(one)] == [2000, 3000]


@pytest.mark.parametrize(
    ("zone", "now", "outcome"),
    [
        ("America/Los_Angeles", "2026-03-01T07:59Z", RenewalOutcome.NOT_DUE),
        ("America/Los_Angeles", "2026-03-01T08:00Z", RenewalOutcome.ORDERED),
        ("Asia/Tokyo", "2026-02-28T14:59Z", RenewalOutcome.NOT_DUE),
        ("Asia/Tokyo", "2026-02-28T15:00Z", RenewalOutcome.ORDERED),
    ],
)
def test_the_day_begins_in_the_subscriptions_zone(shop: Shop, zone: str, now: str, outcome: RenewalOutcome) -> None:
    one = shop.subscription(zone=zone)
    assert shop.renew(one, datetime.fromisoformat(now)).outcome is outcome


def test_short_months_do_not_move_later_cycles(shop: Shop) -> None:
    one = shop.subscription(date(2026, 1, 31), started_on=date(2025, 12, 31))
    days = [date(2026, 1, 31), date(2026, 2, 28), date(2026, 3, 31), date(2026, 4, 30)]
    for day in days:
        assert shop.renew(one, datetime.fromisoformat(f"{day}T00:00Z")).cycle_on == day
    assert [order["cycle_on"] for order in shop.orders(one)] == days
    assert invariant_violations(shop.dsn) == {}


def test_after_months_without_a_run_there_is_one_order(shop: Shop) -> None:
    one = shop.subscription(date(2025, 12, 1))
    done = shop.renew(one)
    assert (done.cycle_on, done.next_on) == (date(2025, 12, 1), date(2026, 4, 1))
    assert len(shop.orders(one)) == 1


@pytest.mark.parametrize(
    ("table", "reason"),
    [("app.users", "the customer is deactivated"), ("app.products", "the product is no longer sold")],
)
def test_a_blocked_subscription_does_not_change(shop: Shop, table: str, reason: str) -> None:
    one = shop.subscription()
    if table == "app.users":
        shop.sql("UPDATE app.users SET state = 'deactivated', deactivated_at = now()")
    else:
        shop.sql("UPDATE app.products SET retired_at = now()")
    before = shop.row(one)
    done = shop.renew(one)
    assert (done.outcome, done.reason) == (RenewalOutcome.BLOCKED, reason)
    assert (shop.row(one), shop.orders(one)) == (before, [])


def test_the_callers_rollback_undoes_the_renewal(shop: Shop) -> None:
    one = shop.subscription()
    with shop.connection.transaction(force_rollback=True):
        assert shop.renew(one).outcome is RenewalOutcome.ORDERED
    assert (shop.orders(one), shop.messages("order_confirmation")) == ([], [])


def test_an_unknown_subscription_is_an_error(shop: Shop) -> None:
    with pytest.raises(InvalidInput, match="subscription_id: there is no subscription 4711"):
        shop.renew(4711)


def test_the_job_returns_what_the_renewal_did(shop: Shop) -> None:
    one = shop.subscription(created_at=LONG_AGO)
    job = create_job(shop.dsn, CONFIG, now=NOW, params={"subscription_id": one})
    assert job.execute(process_single_subscription) == {
        "subscription_id": one, "outcome": "ordered", "cycle_on": "2026-03-01", "next_on": "2026-04-01",
        "order": f"S-{one:08d}-20260301", "order_id": shop.orders(one)[0]["id"], "retry_on": None, "reason": None,
        "unsent_messages": 0,
    }  # fmt: skip


def test_the_database_refuses_a_second_order_of_a_cycle(shop: Shop) -> None:
    """The last line of defence."""
    one = shop.subscription()
    shop.renew(one)
    with pytest.raises(psycopg.errors.UniqueViolation):
        shop.sql(
            "INSERT INTO app.orders (number, user_id, subscription_id, cycle_on, currency, net_minor, tax_minor, ship_to_country)"
            " SELECT 'other', user_id, subscription_id, cycle_on, currency, net_minor, tax_minor, ship_to_country FROM app.orders"
        )
