"""ingest_payment_webhook: from stored events to payments and orders."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import Any

import pytest

from backline.db.statements import statement
from backline.errors import RetryableError
from backline.payments.charges import charge
from backline.payments.ingest_payment_webhook import ingest_payment_webhook
from backline.payments.settings import PaymentSettings
from backline.payments.stripe_client import StripeProvider
from backline.payments.webhook_parsing import PaymentEvent, insert_event
from backline.subscriptions.process_single_subscription import renew
from backline.subscriptions.rules import RenewalOutcome
from backline.subscriptions.settings import SubscriptionSettings
from tests.integration.job_factory import create_job
from tests.integration.payments.support import CARD_NEEDS_AUTHENTICATION, Account, Shop
from tests.unit.payments.signing import intent_event, razorpay_event

TOTAL = 2380
Ingest = Callable[[], dict[str, Any]]


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


@pytest.fixture
def ingest(database: str) -> Ingest:
    def run() -> dict[str, Any]:
        job = create_job(database, PaymentSettings(event_max_wait_hours=24), name="ingest_payment_webhook")
        result: dict[str, Any] = job.execute(ingest_payment_webhook)
        return result

    return run


def dead_letters(shop: Shop) -> list[tuple[str, str]]:
    rows = shop.execute("SELECT item_key, state FROM backline.dead_letter WHERE kind = 'item' ORDER BY id")
    return [(row["item_key"], row["state"]) for row in rows]


def test_a_captured_payment_pays_its_order(shop: Shop, now: datetime, ingest: Ingest) -> None:
    order = shop.order()
    event = intent_event(
        "evt_1", "payment_intent.succeeded", now, reference="pi_1", amount=TOTAL, key=idempotency_key(shop, order)
    )
    assert receive_event(shop, event)
    assert not receive_event(shop, event)
    assert ingest()["outcomes"] == {"applied": 1}
    assert ingest()["outcomes"] == {}
    assert shop.state(order) == ("paid", "captured")
    assert shop.payment(order)["provider_reference"] == "pi_1"
    assert [kind for kind, _ in shop.messages()] == ["payment_receipt"]
    row = shop.fetch_one("SELECT payment_id, processed_at IS NOT NULL AS done, problem FROM app.payment_events")
    assert row == {"payment_id": shop.payment(order)["id"], "done": True, "problem": None}
    assert shop.invariant_violations() == set()


def test_the_event_of_our_own_charge_changes_nothing(
    shop: Shop, provider: StripeProvider, now: datetime, ingest: Ingest
) -> None:
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
    assert ingest()["outcomes"] == {"duplicate": 1}
    assert len(shop.messages()) == 1


def test_an_event_settles_the_attempt_of_a_dead_process(
    shop: Shop, account: Account, provider: StripeProvider, now: datetime, ingest: Ingest
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
    assert ingest()["outcomes"] == {"applied": 1}
    assert shop.attempt_outcomes(order) == ["captured"]
    assert charge(shop.database, provider, order).state == "paid"
    assert len(account.charges()) == 1


@pytest.mark.parametrize("order_of_delivery", list(permutations(range(3))))
def test_out_of_order_events_move_nothing_back(
    order_of_delivery: tuple[int, ...], shop: Shop, now: datetime, ingest: Ingest
) -> None:
    """In any order, each in a separate run: in the end the order is paid, and stays so."""
    order = shop.order()
    error = {"code": "card_declined", "decline_code": "insufficient_funds"}
    about: dict[str, Any] = {"reference": "pi_1", "amount": TOTAL, "key": idempotency_key(shop, order)}
    events = [
        intent_event("evt_1", "payment_intent.requires_action", now + timedelta(seconds=1), **about),
        intent_event("evt_2", "payment_intent.payment_failed", now + timedelta(seconds=2), error=error, **about),
        intent_event("evt_3", "payment_intent.succeeded", now + timedelta(seconds=3), **about),
    ]
    captured = False
    for place in order_of_delivery:
        receive_event(shop, events[place])
        ingest()
        captured = captured or place == 2
        assert (shop.state(order) == ("paid", "captured")) == captured
    assert shop.state(order) == ("paid", "captured")
    assert shop.invariant_violations() == set()


def test_an_old_failure_is_stale(shop: Shop, provider: StripeProvider, now: datetime, ingest: Ingest) -> None:
    order = shop.order(CARD_NEEDS_AUTHENTICATION)
    charge(shop.database, provider, order)
    reference = shop.payment(order)["provider_reference"]
    old = intent_event(
        "evt_1", "payment_intent.payment_failed", now - timedelta(minutes=1), reference=reference, amount=TOTAL
    )
    receive_event(shop, old)
    assert ingest()["outcomes"] == {"stale": 1}
    assert shop.state(order) == ("reserved", "requires_action")


def test_a_customer_who_fails_to_act_is_declined(
    shop: Shop, provider: StripeProvider, now: datetime, ingest: Ingest
) -> None:
    order = shop.order(CARD_NEEDS_AUTHENTICATION)
    charge(shop.database, provider, order)
    reference = shop.payment(order)["provider_reference"]
    error = {"code": "card_declined", "decline_code": "insufficient_funds"}
    later = now + timedelta(minutes=1)
    receive_event(
        shop,
        intent_event("evt_1", "payment_intent.payment_failed", later, reference=reference, amount=TOTAL, error=error),
    )
    assert ingest()["outcomes"] == {"applied": 1}
    assert shop.state(order) == ("reserved", "failed")
    assert shop.attempt_outcomes(order) == ["requires_action", "declined"]
    assert shop.invariant_violations() == set()


def test_events_of_other_types_are_only_stored(shop: Shop, now: datetime, ingest: Ingest) -> None:
    receive_event(
        shop, {"id": "evt_1", "type": "radar.early_fraud_warning.created", "created": int(now.timestamp()), "data": {}}
    )
    receive_event(shop, intent_event("evt_2", "payment_intent.succeeded", now, reference="pi_of_a_till", amount=100))
    assert ingest()["outcomes"] == {"ignored": 2}
    rows = shop.execute(
        "SELECT event_id, processed_at IS NOT NULL AS done, body ->> 'type' AS type FROM app.payment_events ORDER BY id"
    )
    assert [(row["event_id"], row["done"]) for row in rows] == [("evt_1", True), ("evt_2", True)]
    assert rows[0]["type"] == "radar.early_fraud_warning.created"


def test_an_event_that_cannot_be_applied_is_one_dead_letter(shop: Shop, now: datetime, ingest: Ingest) -> None:
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
    result = ingest()
    assert (result["outcomes"], result["failed"]) == ({"applied": 1}, 2)
    assert "but 23.79 EUR were paid" in result["failures"][0]["reason"]
    assert "data.object" in result["failures"][1]["reason"]
    assert (shop.state(order)[0], shop.state(other)[0]) == ("reserved", "paid")
    assert dead_letters(shop) == [("stripe evt_1", "open"), ("stripe evt_2", "open")]
    result = ingest()
    assert (result["done"], result["failed"], result["skipped"]) == (0, 0, 2)


def test_a_replayed_event_is_processed_and_a_discarded_one_is_not(shop: Shop, now: datetime, ingest: Ingest) -> None:
    orders = [shop.order(), shop.order()]
    for number, order in enumerate(orders, 1):
        event = intent_event(
            f"evt_{number}", "payment_intent.succeeded", now, reference=f"pi_{number}", amount=TOTAL - 1,
            key=idempotency_key(shop, order),
        )  # fmt: skip
        receive_event(shop, event)
    assert ingest()["failed"] == 2
    close = "UPDATE backline.dead_letter SET state = %s, closed_at = now() WHERE item_key = %s"
    shop.execute(close, "replayed", "stripe evt_1")
    shop.execute(close, "discarded", "stripe evt_2")
    assert [failure["key"] for failure in ingest()["failures"]] == ["stripe evt_1"]
    assert dead_letters(shop) == [("stripe evt_1", "open"), ("stripe evt_2", "discarded")]
    rows = shop.execute(
        "SELECT processed_at IS NOT NULL AS done, problem <> '' AS failed FROM app.payment_events ORDER BY id"
    )
    assert [(row["done"], row["failed"]) for row in rows] == [(False, True), (True, True)]


def test_a_failed_event_starts_no_further_run(shop: Shop, now: datetime, ingest: Ingest) -> None:
    waiting = statement("payments", "event_is_waiting")
    receive_event(
        shop,
        intent_event("evt_1", "payment_intent.succeeded", now, reference="pi_1", amount=TOTAL, key="order-unknown"),
    )
    assert shop.fetch_one(waiting) == {"is_new": True}
    ingest()
    assert shop.fetch_one(waiting) == {"is_new": False}


def test_a_payment_of_a_cancelled_order_is_a_failure(shop: Shop, now: datetime, ingest: Ingest) -> None:
    order = shop.order()
    shop.execute("UPDATE app.orders SET state = 'cancelled', cancelled_at = clock_timestamp() WHERE id = %s", order)
    receive_event(
        shop,
        intent_event(
            "evt_1", "payment_intent.succeeded", now, reference="pi_1", amount=TOTAL, key=idempotency_key(shop, order)
        ),
    )
    [failure] = ingest()["failures"]
    assert "was paid, but it is cancelled; refund the payment" in failure["reason"]


def test_an_event_waits_for_its_payment(shop: Shop, now: datetime, ingest: Ingest) -> None:
    order = shop.order(None)
    number = shop.fetch_one("SELECT number FROM app.orders WHERE id = %s", order)["number"]
    receive_event(
        shop,
        intent_event("evt_1", "payment_intent.succeeded", now, reference="pi_1", amount=TOTAL, key=f"order-{number}"),
    )
    assert ingest()["outcomes"] == {"waiting": 1}
    shop.checkout(order, "pm_card_visa")
    assert ingest()["outcomes"] == {"applied": 1}
    assert shop.state(order) == ("paid", "captured")


def test_waiting_has_a_limit(shop: Shop, now: datetime, ingest: Ingest) -> None:
    receive_event(
        shop,
        intent_event("evt_1", "payment_intent.succeeded", now, reference="pi_1", amount=TOTAL, key="order-unknown"),
    )
    ingest()
    shop.execute("UPDATE app.payment_events SET received_at = received_at - interval '25 hours'")
    [failure] = ingest()["failures"]
    assert "no payment has the key order-unknown" in failure["reason"]
    assert ingest()["outcomes"] == {}


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


def test_a_charged_subscription_gets_its_order(shop: Shop, now: datetime, ingest: Ingest) -> None:
    subscription, product = subscribe(shop)
    receive_charge(shop, now, "pay_1")
    receive_charge(shop, now, "pay_1", event_id="delivered again under another id")
    assert ingest()["outcomes"] == {"applied": 1, "duplicate": 1}
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


def test_a_charged_subscription_pays_its_waiting_order(shop: Shop, now: datetime, ingest: Ingest) -> None:
    subscription, _ = subscribe(shop)
    assert renew(shop.database, subscription, now, SubscriptionSettings()).outcome is RenewalOutcome.ORDERED
    before = shop.fetch_one("SELECT next_on FROM app.subscriptions")
    receive_charge(shop, now, "pay_1")
    assert ingest()["outcomes"] == {"applied": 1}
    assert [
        row["state"] for row in shop.execute("SELECT state FROM app.orders WHERE subscription_id = %s", subscription)
    ] == ["paid"]
    assert shop.fetch_one("SELECT next_on FROM app.subscriptions") == before
    receive_charge(shop, now, "pay_2")  # for a cycle that is paid
    [failure] = ingest()["failures"]
    assert "refund it if the last cycle is paid" in failure["reason"]


def test_a_charged_subscription_without_stock_waits_for_it(shop: Shop, now: datetime, ingest: Ingest) -> None:
    _, product = subscribe(shop, stock=0)
    receive_charge(shop, now, "pay_1")
    assert ingest()["outcomes"] == {"waiting": 1}
    assert shop.execute("SELECT id FROM app.orders") == []
    shop.execute("INSERT INTO app.stock_movements (product_id, reason, quantity) VALUES (%s, 'received', 5)", product)
    shop.execute("UPDATE app.products SET stock = 5 WHERE id = %s", product)
    assert ingest()["outcomes"] == {"applied": 1}
    assert shop.fetch_one("SELECT state FROM app.orders") == {"state": "paid"}
    assert shop.invariant_violations() == set()


def test_a_charge_of_another_amount_creates_no_order(shop: Shop, now: datetime, ingest: Ingest) -> None:
    subscribe(shop)
    receive_charge(shop, now, "pay_1", amount=49999)
    [failure] = ingest()["failures"]
    assert "costs 595.00 INR" in failure["reason"]
    assert shop.execute("SELECT id FROM app.orders") == []
