"""What providers tell, from the kept event to payments and orders."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import Any

import pytest

from backline.errors import RetryableError
from backline.payments.charges import charge
from backline.payments.stripe_client import StripeProvider
from backline.payments.webhook_events import ingest
from backline.payments.webhook_parsing import PaymentEvent, insert_event
from backline.subscriptions.renewal import RenewalOutcome, renew
from backline.subscriptions.settings import SubscriptionSettings
from tests.integration.payments.support import CARD_NEEDS_AUTHENTICATION, Account, Shop
from tests.unit.payments.signing import intent_event, razorpay_event

PATIENCE = 24.0
TOTAL = 2380


@pytest.fixture
def now() -> datetime:
    return datetime.now(UTC)


def receive_event(shop: Shop, event: dict[str, Any], provider: str = "stripe", event_id: str | None = None) -> bool:
    kind = event["type" if provider == "stripe" else "event"]
    at = datetime.fromtimestamp(event["created" if provider == "stripe" else "created_at"], UTC)
    with shop.database.transaction():
        return insert_event(shop.database, PaymentEvent(provider, event_id or event["id"], kind, at, event))


def idempotency_key(shop: Shop, order: int) -> str:
    return str(shop.payment(order)["idempotency_key"])


def run_ingest(shop: Shop) -> dict[str, object]:
    return ingest(shop.database, PATIENCE).as_dict()


def test_money_that_came_pays_the_order(shop: Shop, now: datetime) -> None:
    order = shop.order()
    event = intent_event(
        "evt_1", "payment_intent.succeeded", now, reference="pi_1", amount=TOTAL, key=idempotency_key(shop, order)
    )
    assert receive_event(shop, event)
    assert not receive_event(shop, event)
    assert run_ingest(shop) == {"applied": 1, "problems": []}
    assert run_ingest(shop) == {"problems": []}
    assert shop.state(order) == ("paid", "captured")
    assert shop.payment(order)["provider_reference"] == "pi_1"
    assert [kind for kind, _ in shop.messages()] == ["payment_receipt"]
    row = shop.fetch_one("SELECT payment_id, processed_at IS NOT NULL AS done, problem FROM app.payment_events")
    assert row == {"payment_id": shop.payment(order)["id"], "done": True, "problem": None}
    assert shop.invariant_violations() == set()


def test_the_event_of_our_own_charge_changes_nothing(shop: Shop, provider: StripeProvider, now: datetime) -> None:
    order = shop.order()
    charge(shop.database, provider, order)
    reference = shop.payment(order)["provider_reference"]
    receive_event(
        shop,
        intent_event(
            "evt_1",
            "payment_intent.succeeded",
            now,
            reference=reference,
            amount=TOTAL,
            key=idempotency_key(shop, order),
        ),
    )
    assert run_ingest(shop) == {"known": 1, "problems": []}
    assert len(shop.messages()) == 1


def test_the_event_settles_a_try_whose_maker_has_died(
    shop: Shop, account: Account, provider: StripeProvider, now: datetime
) -> None:
    order = shop.order()
    account.set_faults({"recipient": "confirm", "action": "drop", "after": True, "times": 1})
    with pytest.raises(RetryableError):
        charge(shop.database, provider, order)
    [intent] = account.intents()
    receive_event(
        shop,
        intent_event(
            "evt_1",
            "payment_intent.succeeded",
            now,
            reference=intent["id"],
            amount=TOTAL,
            key=idempotency_key(shop, order),
        ),
    )
    assert run_ingest(shop) == {"applied": 1, "problems": []}
    assert shop.attempt_outcomes(order) == ["captured"]
    assert charge(shop.database, provider, order).state == "paid"
    assert len(account.charges()) == 1


@pytest.mark.parametrize("order_of_telling", list(permutations(range(3))))
def test_out_of_order_events_move_nothing_back(order_of_telling: tuple[int, ...], shop: Shop, now: datetime) -> None:
    """Whatever comes first, each in a run of its own: in the end the order is paid, and stays so."""
    order = shop.order()
    error = {"code": "card_declined", "decline_code": "insufficient_funds"}
    about = {"reference": "pi_1", "amount": TOTAL, "key": idempotency_key(shop, order)}
    events = [
        intent_event("evt_1", "payment_intent.requires_action", now + timedelta(seconds=1), **about),
        intent_event("evt_2", "payment_intent.payment_failed", now + timedelta(seconds=2), error=error, **about),
        intent_event("evt_3", "payment_intent.succeeded", now + timedelta(seconds=3), **about),
    ]
    captured = False
    for place in order_of_telling:
        receive_event(shop, events[place])
        run_ingest(shop)
        captured = captured or place == 2
        assert (shop.state(order) == ("paid", "captured")) == captured
    assert shop.state(order) == ("paid", "captured")
    assert shop.invariant_violations() == set()


def test_an_old_failure_is_no_news(shop: Shop, provider: StripeProvider, now: datetime) -> None:
    order = shop.order(CARD_NEEDS_AUTHENTICATION)
    charge(shop.database, provider, order)
    reference = shop.payment(order)["provider_reference"]
    old = intent_event(
        "evt_1", "payment_intent.payment_failed", now - timedelta(minutes=1), reference=reference, amount=TOTAL
    )
    receive_event(shop, old)
    assert run_ingest(shop) == {"stale": 1, "problems": []}
    assert shop.state(order) == ("reserved", "requires_action")


def test_a_customer_who_fails_to_act_is_declined(shop: Shop, provider: StripeProvider, now: datetime) -> None:
    order = shop.order(CARD_NEEDS_AUTHENTICATION)
    charge(shop.database, provider, order)
    reference = shop.payment(order)["provider_reference"]
    error = {"code": "card_declined", "decline_code": "insufficient_funds"}
    later = now + timedelta(minutes=1)
    receive_event(
        shop,
        intent_event("evt_1", "payment_intent.payment_failed", later, reference=reference, amount=TOTAL, error=error),
    )
    assert run_ingest(shop) == {"applied": 1, "problems": []}
    assert shop.state(order) == ("reserved", "failed")
    assert shop.attempt_outcomes(order) == ["requires_action", "declined"]
    assert shop.invariant_violations() == set()


def test_unknown_events_are_kept(shop: Shop, now: datetime) -> None:
    receive_event(
        shop, {"id": "evt_1", "type": "radar.early_fraud_warning.created", "created": int(now.timestamp()), "data": {}}
    )
    receive_event(shop, intent_event("evt_2", "payment_intent.succeeded", now, reference="pi_of_a_till", amount=100))
    assert run_ingest(shop) == {"kept": 2, "problems": []}
    rows = shop.execute(
        "SELECT event_id, processed_at IS NOT NULL AS done, body ->> 'type' AS type FROM app.payment_events ORDER BY id"
    )
    assert [(row["event_id"], row["done"]) for row in rows] == [("evt_1", True), ("evt_2", True)]
    assert rows[0]["type"] == "radar.early_fraud_warning.created"


def test_what_is_wrong_is_told_and_harms_nothing_else(shop: Shop, now: datetime) -> None:
    order, other = shop.order(), shop.order()
    receive_event(
        shop,
        intent_event(
            "evt_1",
            "payment_intent.succeeded",
            now,
            reference="pi_1",
            amount=TOTAL - 1,
            key=idempotency_key(shop, order),
        ),
    )
    receive_event(
        shop,
        {
            "id": "evt_2",
            "type": "payment_intent.succeeded",
            "created": int(now.timestamp()),
            "data": {"object": {"id": 7}},
        },
    )
    receive_event(
        shop,
        intent_event(
            "evt_3", "payment_intent.succeeded", now, reference="pi_3", amount=TOTAL, key=idempotency_key(shop, other)
        ),
    )
    report = ingest(shop.database, PATIENCE)
    assert report.counts == {"failed": 2, "applied": 1}
    assert "and 2379 EUR came" in report.problems[0]
    assert "data.object" in report.problems[1]
    assert (shop.state(order)[0], shop.state(other)[0]) == ("reserved", "paid")
    assert run_ingest(shop) == {"problems": []}  # told once


def test_money_for_a_cancelled_order_is_told(shop: Shop, now: datetime) -> None:
    order = shop.order()
    shop.execute("UPDATE app.orders SET state = 'cancelled', cancelled_at = clock_timestamp() WHERE id = %s", order)
    receive_event(
        shop,
        intent_event(
            "evt_1", "payment_intent.succeeded", now, reference="pi_1", amount=TOTAL, key=idempotency_key(shop, order)
        ),
    )
    [problem] = ingest(shop.database, PATIENCE).problems
    assert "which is cancelled; give it back" in problem


def test_what_is_not_there_yet_is_waited_for(shop: Shop, now: datetime) -> None:
    order = shop.order(None)
    number = shop.fetch_one("SELECT number FROM app.orders WHERE id = %s", order)["number"]
    receive_event(
        shop,
        intent_event("evt_1", "payment_intent.succeeded", now, reference="pi_1", amount=TOTAL, key=f"order-{number}"),
    )
    assert run_ingest(shop) == {"waiting": 1, "problems": []}
    shop.checkout(order, "pm_card_visa")
    assert run_ingest(shop) == {"applied": 1, "problems": []}
    assert shop.state(order) == ("paid", "captured")


def test_waiting_ends(shop: Shop, now: datetime) -> None:
    receive_event(
        shop, intent_event("evt_1", "payment_intent.succeeded", now, reference="pi_1", amount=TOTAL, key="order-nobody")
    )
    run_ingest(shop)
    shop.execute("UPDATE app.payment_events SET received_at = received_at - interval '25 hours'")
    [problem] = ingest(shop.database, PATIENCE).problems
    assert "no payment bears the key order-nobody" in problem
    assert run_ingest(shop) == {"problems": []}


# --- subscriptions ----------------------------------------------------------------------------------


def subscribe(shop: Shop, *, stock: int = 10, quantity: int = 1) -> tuple[int, int]:
    user, product = shop.user(), shop.product(stock)
    row = shop.fetch_one(
        "INSERT INTO app.subscriptions (user_id, product_id, quantity, unit_price_minor, currency, anchor_day, zone, started_on,"
        " next_on, provider, provider_reference)"
        " SELECT %s, %s, %s, 50000, 'INR', extract(day FROM day), 'Asia/Kolkata', app.anchor_date((day - interval '1 month')::date,"
        " extract(day FROM day)::int), day, 'razorpay', 'sub_1' FROM (SELECT (now() AT TIME ZONE 'Asia/Kolkata')::date AS day) AS d"
        " RETURNING id", user, product, quantity,
    )  # fmt: skip
    return int(row["id"]), product


def receive_charge(shop: Shop, now: datetime, payment: str, amount: int = 59500, event_id: str | None = None) -> None:
    event = razorpay_event("subscription.charged", now, payment=payment, amount=amount, subscription="sub_1")
    receive_event(shop, event, "razorpay", event_id or f"E-{payment}")


def test_a_charged_subscription_makes_its_order(shop: Shop, now: datetime) -> None:
    subscription, product = subscribe(shop)
    receive_charge(shop, now, "pay_1")
    receive_charge(shop, now, "pay_1", event_id="told again under another id")
    assert run_ingest(shop) == {"applied": 1, "known": 1, "problems": []}
    order = shop.fetch_one("SELECT * FROM app.orders WHERE subscription_id = %s", subscription)
    assert (order["state"], order["total_minor"], order["currency"]) == ("paid", 59500, "INR")
    after = shop.fetch_one(
        "SELECT next_on, app.anchor_date((next_on - interval '1 month')::date, anchor_day) AS before FROM app.subscriptions"
    )
    assert after["before"] == order["cycle_on"]
    assert shop.fetch_one("SELECT reserved FROM app.products WHERE id = %s", product) == {"reserved": 1}
    payment = shop.payment(order["id"])
    assert (payment["provider"], payment["provider_reference"], payment["state"]) == ("razorpay", "pay_1", "captured")
    assert [kind for kind, _ in shop.messages()] == ["order_confirmation", "payment_receipt"]
    assert shop.invariant_violations() == set()


def test_an_order_that_waits_for_its_money_gets_it(shop: Shop, now: datetime) -> None:
    subscription, _ = subscribe(shop)
    assert renew(shop.database, subscription, now, SubscriptionSettings()).outcome is RenewalOutcome.ORDERED
    before = shop.fetch_one("SELECT next_on FROM app.subscriptions")
    receive_charge(shop, now, "pay_1")
    assert run_ingest(shop) == {"applied": 1, "problems": []}
    assert [
        row["state"] for row in shop.execute("SELECT state FROM app.orders WHERE subscription_id = %s", subscription)
    ] == ["paid"]
    assert shop.fetch_one("SELECT next_on FROM app.subscriptions") == before
    receive_charge(shop, now, "pay_2")  # for a cycle that is paid
    [problem] = ingest(shop.database, PATIENCE).problems
    assert "if this cycle is paid, give it back" in problem


def test_a_charged_subscription_without_stock_waits_for_it(shop: Shop, now: datetime) -> None:
    _, product = subscribe(shop, stock=0)
    receive_charge(shop, now, "pay_1")
    assert run_ingest(shop) == {"waiting": 1, "problems": []}
    assert shop.execute("SELECT id FROM app.orders") == []
    shop.execute("INSERT INTO app.stock_movements (product_id, reason, quantity) VALUES (%s, 'received', 5)", product)
    shop.execute("UPDATE app.products SET stock = 5 WHERE id = %s", product)
    assert run_ingest(shop) == {"applied": 1, "problems": []}
    assert shop.fetch_one("SELECT state FROM app.orders") == {"state": "paid"}
    assert shop.invariant_violations() == set()


def test_a_charge_of_another_amount_makes_no_order(shop: Shop, now: datetime) -> None:
    subscribe(shop)
    receive_charge(shop, now, "pay_1", amount=49999)
    [problem] = ingest(shop.database, PATIENCE).problems
    assert "costs 59500 INR" in problem
    assert shop.execute("SELECT id FROM app.orders") == []
