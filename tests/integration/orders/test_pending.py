"""process_pending_orders: what has stopped goes on, what waits is left alone, what is stuck is told of."""

from __future__ import annotations

import pytest
from backline.orders.sweep import MAX_CONSECUTIVE_FAILURES, SweepReport, sweep_orders

from backline.errors import UnknownFailure
from backline.messages import registry
from backline.orders.saga import SagaOutcome, run_saga
from backline.orders.settings import OrderSettings
from backline.payments.stripe_client import StripeProvider
from tests.integration.orders.support import Shop
from tests.integration.payments.support import (
    CARD_INSUFFICIENT_FUNDS,
    CARD_NEEDS_AUTHENTICATION,
    PROVIDER_UNAVAILABLE,
    Account,
)

CONFIG = OrderSettings()
OPERATORS = ("ops@example.com", "night@example.com")


def run_sweep(shop: Shop, provider: StripeProvider, config: OrderSettings = CONFIG) -> SweepReport:
    return sweep_orders(shop.database, provider, config, OPERATORS)


def stop_at(point: str, shop: Shop, provider: StripeProvider, order: int) -> None:
    """Leave an order where it is before it is done."""

    def stop(doing: str) -> None:
        if doing == point:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_saga(shop.database, provider, order, CONFIG, stop)


def test_orders_go_on_from_where_they_are(shop: Shop, provider: StripeProvider) -> None:
    cup, customer = shop.product(), shop.customer()
    orders = [shop.order(customer, (cup, 1)) for _ in range(4)]
    for order, point in zip(orders, ("validate", "reserve", "pay", "confirm"), strict=True):
        stop_at(point, shop, provider, order)
        shop.backdate(order, 1)
    assert [shop.state(order) for order in orders] == ["pending", "pending", "reserved", "paid"]
    heard: list[str] = []
    report = sweep_orders(shop.database, provider, CONFIG, OPERATORS, lambda _, what: heard.append(what))
    assert (report.examined, report.outcomes, report.failed, report.has_more) == (4, {"confirmed": 4}, 0, False)
    assert sorted(heard) == [f"order O-000{n}" for n in (1, 2, 3, 4)]
    assert {shop.state(order) for order in orders} == {"confirmed"}
    assert shop.invariant_violations() == {}
    assert run_sweep(shop, provider).examined == 0


def test_what_has_just_moved_is_left_to_whoever_moves_it(shop: Shop, provider: StripeProvider) -> None:
    order = shop.order(shop.customer(), (shop.product(), 1))
    assert run_sweep(shop, provider).examined == 0
    shop.backdate(order, 1)
    assert run_sweep(shop, provider).examined == 1


def test_what_waits_for_its_customer_is_left_alone_until_it_is_late(shop: Shop, provider: StripeProvider) -> None:
    cup = shop.product()
    order = shop.order(shop.customer(), (cup, 1), card=CARD_NEEDS_AUTHENTICATION)
    run_saga(shop.database, provider, order, CONFIG)
    shop.backdate(order, 71)
    assert run_sweep(shop, provider).examined == 0
    shop.backdate(order, 2)
    assert run_sweep(shop, provider).outcomes == {"cancelled": 1}
    assert shop.reserved(cup) == 0
    assert shop.invariant_violations() == {}


def test_what_is_tried_again_keeps_its_stock_for_as_long_as_that_takes(shop: Shop, provider: StripeProvider) -> None:
    cup = shop.product()
    order = shop.order(shop.customer(), (cup, 1), card=CARD_INSUFFICIENT_FUNDS)
    run_saga(shop.database, provider, order, CONFIG)
    shop.backdate(order, 300)
    report = run_sweep(shop, provider)
    assert (report.examined, report.stuck) == (0, {})
    assert run_saga(shop.database, provider, order, CONFIG).outcome is SagaOutcome.WAITING
    assert shop.reserved(cup) == 1


def test_a_payment_that_was_given_up_gives_the_stock_back(shop: Shop, provider: StripeProvider) -> None:
    cup = shop.product()
    order = shop.order(shop.customer(), (cup, 1), card=CARD_INSUFFICIENT_FUNDS)
    run_saga(shop.database, provider, order, CONFIG)
    shop.database.execute("UPDATE app.payments SET state = 'abandoned', next_attempt_at = NULL, abandoned_at = now()")
    shop.backdate(order, 1)
    assert run_sweep(shop, provider).outcomes == {"cancelled": 1}
    assert shop.reserved(cup) == 0
    assert shop.invariant_violations() == {}


def test_one_that_fails_harms_no_other(shop: Shop, provider: StripeProvider) -> None:
    cup, customer = shop.product(), shop.customer()
    orders = [shop.order(customer, (cup, 1)) for _ in range(3)]
    for order in orders:
        shop.backdate(order, 1)
    shop.database.execute("UPDATE app.payments SET amount_minor = 1 WHERE order_id = %s", [orders[1]])
    report = run_sweep(shop, provider)
    assert (report.examined, report.outcomes, report.failed) == (3, {"confirmed": 2}, 1)
    [failure] = report.failures
    assert (failure["order"], failure["class"]) == ("O-0002", "validation")
    assert [shop.state(order) for order in orders] == ["confirmed", "reserved", "confirmed"]
    assert shop.invariant_violations() == {}


def test_with_the_provider_away_it_stops_and_is_retried(shop: Shop, provider: StripeProvider, account: Account) -> None:
    cup, customer = shop.product(20), shop.customer()
    for _ in range(MAX_CONSECUTIVE_FAILURES + 2):
        shop.backdate(shop.order(customer, (cup, 1)), 1)
    account.set_faults(PROVIDER_UNAVAILABLE)
    with pytest.raises(UnknownFailure, match="Stripe answered 503"):
        run_sweep(shop, provider)
    assert shop.fetch_one("SELECT count(*) AS tries FROM app.payment_attempts")["attempts"] == MAX_CONSECUTIVE_FAILURES
    account.set_faults()
    assert run_sweep(shop, provider, OrderSettings(grace_seconds=0)).outcomes == {
        "confirmed": MAX_CONSECUTIVE_FAILURES + 2
    }
    assert shop.invariant_violations() == {}


def test_it_is_bounded_and_those_that_rest_longest_come_first(shop: Shop, provider: StripeProvider) -> None:
    cup, customer = shop.product(), shop.customer()
    orders = [shop.order(customer, (cup, 1)) for _ in range(3)]
    for hours, order in enumerate(orders, 1):
        shop.backdate(order, hours)
    bounded = OrderSettings(batch_limit=2)
    report = run_sweep(shop, provider, bounded)
    assert (report.examined, report.has_more) == (2, True)
    assert [shop.state(order) for order in orders] == ["pending", "confirmed", "confirmed"]
    assert run_sweep(shop, provider, bounded).has_more is False


def test_stuck_orders_are_told_of_once_a_day(shop: Shop, provider: StripeProvider) -> None:
    cup, customer = shop.product(), shop.customer()
    orders = [shop.order(customer, (cup, 1)) for _ in range(3)]
    for order in orders:
        run_saga(shop.database, provider, order, CONFIG)
    shop.backdate(orders[0], 73)
    shop.backdate(orders[1], 71)
    report = run_sweep(shop, provider)
    assert set(report.stuck) == {"confirmed"}
    assert (report.stuck["confirmed"]["orders"], report.stuck["confirmed"]["first"]) == (1, ["O-0001"])
    run_sweep(shop, provider)
    told = shop.messages("templated_email")
    assert sorted(message["recipient"] for message in told) == sorted(OPERATORS)
    assert told[0]["payload"]["context"]["title"] == "Orders are stuck: 1 confirmed"
    assert "O-0001" in str(told[0]["payload"]["context"]["details"])
    content = registry.get("templated_email").parse(told[0]["payload"]).email()  # type: ignore[attr-defined]
    assert "Orders are stuck: 1 confirmed" in content.subject
    shop.backdate(orders[2], 80)
    run_sweep(shop, provider)
    assert len(shop.messages("templated_email")) == 4
