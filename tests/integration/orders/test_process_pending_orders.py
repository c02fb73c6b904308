"""process_pending_orders: continues stopped orders, leaves waiting ones alone, alerts of stuck ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from backline.errors import UnknownFailure
from backline.jobs.batch import MAX_CONSECUTIVE_TRANSIENT
from backline.jobs.results import RunRef
from backline.messages import registry
from backline.orders.process_order import SagaOutcome, run_saga
from backline.orders.process_pending_orders import process_pending_orders
from backline.orders.settings import OrderSettings
from backline.payments.stripe_client import StripeProvider
from tests.integration.job_factory import create_job, get_result
from tests.integration.orders.support import Shop
from tests.integration.payments.support import (
    CARD_INSUFFICIENT_FUNDS,
    CARD_NEEDS_AUTHENTICATION,
    PROVIDER_UNAVAILABLE,
    Account,
)

CONFIG = OrderSettings()
OPERATORS = ("ops@example.com", "night@example.com")
Sweep = Callable[..., dict[str, Any]]


@pytest.fixture
def sweep(database: str, provider: StripeProvider) -> Sweep:
    def run(config: OrderSettings = CONFIG) -> dict[str, Any]:
        job = create_job(database, config, provider=provider)
        job.alert_recipients = OPERATORS
        result: dict[str, Any] = job.execute(process_pending_orders)
        return result

    return run


def stop_at(step: str, shop: Shop, provider: StripeProvider, order: int) -> None:
    """Process an order, and stop before a step."""

    def stop(started: str) -> None:
        if started == step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_saga(shop.database, provider, order, CONFIG, stop)


def test_stopped_orders_continue_from_their_state(shop: Shop, provider: StripeProvider, sweep: Sweep) -> None:
    cup, customer = shop.product(), shop.customer()
    orders = [shop.order(customer, (cup, 1)) for _ in range(4)]
    for order, step in zip(orders, ("validate", "reserve", "pay", "confirm"), strict=True):
        stop_at(step, shop, provider, order)
        shop.backdate(order, 1)
    assert [shop.state(order) for order in orders] == ["pending", "pending", "reserved", "paid"]
    result = sweep()["orders"]
    assert (result["done"], result["outcomes"], result["failed"]) == (4, {"confirmed": 4}, 0)
    assert result["limit_reached"] is False
    assert {shop.state(order) for order in orders} == {"confirmed"}
    assert shop.invariant_violations() == {}
    assert sweep()["orders"]["done"] == 0


def test_an_order_that_has_just_changed_is_left_to_its_own_run(shop: Shop, sweep: Sweep) -> None:
    order = shop.order(shop.customer(), (shop.product(), 1))
    assert sweep()["orders"]["done"] == 0
    shop.backdate(order, 1)
    assert sweep()["orders"]["done"] == 1


def test_an_order_that_waits_for_its_customer_is_cancelled_once_its_payment_is_overdue(
    shop: Shop, provider: StripeProvider, sweep: Sweep
) -> None:
    cup = shop.product()
    order = shop.order(shop.customer(), (cup, 1), card=CARD_NEEDS_AUTHENTICATION)
    run_saga(shop.database, provider, order, CONFIG)
    shop.backdate(order, 71)
    assert sweep()["orders"]["done"] == 0
    shop.backdate(order, 2)
    assert sweep()["orders"]["outcomes"] == {"cancelled": 1}
    assert shop.reserved(cup) == 0
    assert shop.invariant_violations() == {}


def test_stock_stays_reserved_while_the_payment_has_a_next_attempt(
    shop: Shop, provider: StripeProvider, sweep: Sweep
) -> None:
    cup = shop.product()
    order = shop.order(shop.customer(), (cup, 1), card=CARD_INSUFFICIENT_FUNDS)
    run_saga(shop.database, provider, order, CONFIG)
    shop.backdate(order, 300)
    result = sweep()
    assert (result["orders"]["done"], result["stuck"]) == (0, {})
    assert run_saga(shop.database, provider, order, CONFIG).outcome is SagaOutcome.WAITING
    assert shop.reserved(cup) == 1


def test_an_abandoned_payment_releases_the_stock(shop: Shop, provider: StripeProvider, sweep: Sweep) -> None:
    cup = shop.product()
    order = shop.order(shop.customer(), (cup, 1), card=CARD_INSUFFICIENT_FUNDS)
    run_saga(shop.database, provider, order, CONFIG)
    shop.database.execute("UPDATE app.payments SET state = 'abandoned', next_attempt_at = NULL, abandoned_at = now()")
    shop.backdate(order, 1)
    assert sweep()["orders"]["outcomes"] == {"cancelled": 1}
    assert shop.reserved(cup) == 0
    assert shop.invariant_violations() == {}


def test_an_order_that_fails_is_one_dead_letter_until_it_changes(shop: Shop, sweep: Sweep) -> None:
    cup, customer = shop.product(), shop.customer()
    orders = [shop.order(customer, (cup, 1)) for _ in range(3)]
    for order in orders:
        shop.backdate(order, 1)
    shop.database.execute("UPDATE app.payments SET amount_minor = 1 WHERE order_id = %s", [orders[1]])
    result = sweep()["orders"]
    assert (result["outcomes"], result["failed"]) == ({"confirmed": 2}, 1)
    [failure] = result["failures"]
    assert (failure["key"], failure["failure_class"]) == ("O-0002", "validation")
    assert [shop.state(order) for order in orders] == ["confirmed", "reserved", "confirmed"]
    assert shop.invariant_violations() == {}
    # Reserving its stock has changed the order, so it is attempted once more; then it is left out.
    shop.backdate(orders[1], 1)
    assert sweep()["orders"]["failed"] == 1
    result = sweep()["orders"]
    assert (result["done"], result["failed"], result["skipped"]) == (0, 0, 1)
    assert (
        shop.fetch_one("SELECT count(*) AS n FROM backline.dead_letter WHERE kind = 'item' AND state = 'open'")["n"]
        == 1
    )
    shop.database.execute(
        "UPDATE app.payments SET amount_minor = (SELECT total_minor FROM app.orders WHERE id = order_id)"
    )
    shop.database.execute("UPDATE backline.dead_letter SET state = 'replayed', closed_at = now()")
    assert sweep()["orders"]["outcomes"] == {"confirmed": 1}


def test_an_unavailable_provider_stops_the_run_and_it_is_retried(
    shop: Shop, database: str, account: Account, sweep: Sweep
) -> None:
    cup, customer = shop.product(20), shop.customer()
    for _ in range(MAX_CONSECUTIVE_TRANSIENT + 2):
        shop.backdate(shop.order(customer, (cup, 1)), 1)
    account.set_faults(PROVIDER_UNAVAILABLE)
    with pytest.raises(UnknownFailure, match="Stripe answered 503"):
        sweep()
    attempts = shop.fetch_one("SELECT count(*) AS n FROM app.payment_attempts")["n"]
    assert attempts == MAX_CONSECUTIVE_TRANSIENT
    stored = get_result(database, RunRef("test_job", "run-1"))
    assert stored is not None
    assert stored["result"]["orders"]["stopped_early"] is True
    assert shop.fetch_one("SELECT count(*) AS n FROM backline.dead_letter")["n"] == 0
    account.set_faults()
    result = sweep(OrderSettings(grace_seconds=0))["orders"]
    assert result["outcomes"] == {"confirmed": MAX_CONSECUTIVE_TRANSIENT + 2}
    assert shop.invariant_violations() == {}


def test_a_run_is_bounded_and_the_oldest_orders_come_first(shop: Shop, sweep: Sweep) -> None:
    cup, customer = shop.product(), shop.customer()
    orders = [shop.order(customer, (cup, 1)) for _ in range(3)]
    for order in orders:
        shop.backdate(order, 1)
    bounded = OrderSettings(batch_limit=2)
    result = sweep(bounded)["orders"]
    assert (result["done"], result["limit_reached"]) == (2, True)
    assert [shop.state(order) for order in orders] == ["confirmed", "confirmed", "pending"]
    assert sweep(bounded)["orders"]["limit_reached"] is False


def test_operators_are_alerted_of_stuck_orders_once_a_day(shop: Shop, provider: StripeProvider, sweep: Sweep) -> None:
    cup, customer = shop.product(), shop.customer()
    orders = [shop.order(customer, (cup, 1)) for _ in range(3)]
    for order in orders:
        run_saga(shop.database, provider, order, CONFIG)
    shop.backdate(orders[0], 73)
    shop.backdate(orders[1], 71)
    stuck = sweep()["stuck"]
    assert set(stuck) == {"confirmed"}
    assert (stuck["confirmed"]["orders"], stuck["confirmed"]["numbers"]) == (1, ["O-0001"])
    sweep()
    alerts = shop.messages("templated_email")
    assert sorted(message["recipient"] for message in alerts) == sorted(OPERATORS)
    assert alerts[0]["payload"]["context"]["title"] == "Orders are stuck: 1 confirmed"
    assert "O-0001" in str(alerts[0]["payload"]["context"]["details"])
    content = registry.get("templated_email").parse(alerts[0]["payload"]).email()  # type: ignore[attr-defined]
    assert "Orders are stuck: 1 confirmed" in content.subject
    shop.backdate(orders[2], 80)
    sweep()
    assert len(shop.messages("templated_email")) == 4
