"""Charges, cancellations and refunds follow the provider's state: its units, refusals, partial captures, refunds and disputes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from backline.errors import Rejected
from backline.orders.process_order import SagaOutcome, run_saga
from backline.orders.settings import OrderSettings
from backline.payments.charges import charge
from backline.payments.ingest_payment_webhook import ingest_payment_webhook
from backline.payments.refunds import refund
from backline.payments.settings import PaymentSettings
from backline.payments.stripe_client import StripeProvider
from tests.integration import shop as shops
from tests.integration.job_factory import create_job
from tests.integration.payments.support import CARD_INSUFFICIENT_FUNDS, CARD_STOLEN, CARD_VALID, Account, Shop
from tests.integration.payments.test_ingest_payment_webhook import dead_letters, idempotency_key, receive_event
from tests.unit.payments.signing import dispute_event, intent_event, razorpay_event, refund_event

TOTAL = 2380
CONFIG = OrderSettings()
PAID, BACK = f"charged {TOTAL} eur", f"refunded {TOTAL} eur"
Ingest = Callable[[], dict[str, Any]]


@pytest.fixture
def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def ingest(database: str) -> Ingest:
    def run() -> dict[str, Any]:
        job = create_job(database, PaymentSettings(), name="ingest_payment_webhook")
        result: dict[str, Any] = job.execute(ingest_payment_webhook)
        return result

    return run


def order_in(shop: Shop, currency: str, minor: int, state: str = "reserved") -> int:
    """An order of exactly that amount, without tax."""
    line = shops.Line(1, minor, tax_rate=0, product=shop.product())
    return shops.Shop.order(shop, line, state=state, card=CARD_VALID, currency=currency)


def paid_order(shop: Shop, provider: StripeProvider) -> tuple[int, str]:
    """A confirmed order and the provider's id of its payment."""
    order = shop.order(state="pending")
    assert run_saga(shop.database, provider, order, CONFIG).outcome is SagaOutcome.CONFIRMED
    return order, str(shop.payment(order)["provider_reference"])


@pytest.mark.parametrize(
    ("currency", "minor", "amount"),
    [("ISK", 5000, 500000), ("UGX", 5000, 500000), ("MGA", 500000, 5000), ("KWD", 5120, 5120)],
)
def test_amounts_are_in_the_providers_units_both_ways(
    currency: str,
    minor: int,
    amount: int,
    shop: Shop,
    account: Account,
    provider: StripeProvider,
    now: datetime,
    ingest: Ingest,
) -> None:
    order = order_in(shop, currency, minor)
    assert charge(shop.database, provider, order).state == "paid"
    [intent] = account.intents()
    assert (intent["amount"], intent["amount_received"]) == (amount, amount)
    [listed] = account.list_payments()
    assert (listed.amount_minor, listed.currency) == (minor, currency)
    event = intent_event(
        "evt_1", "payment_intent.succeeded", now, reference=intent["id"], amount=amount, currency=currency.lower()
    )
    receive_event(shop, event)
    assert ingest()["outcomes"] == {"duplicate": 1}
    refund(shop.database, provider, order, "returned")
    assert account.charges()[-1] == f"refunded {amount} {currency.lower()}"
    assert shop.payment(order)["refunded_minor"] == minor


def test_an_amount_that_the_provider_cannot_express_is_refused_before_charging(
    shop: Shop, account: Account, provider: StripeProvider
) -> None:
    order = order_in(shop, "KWD", 5124, state="pending")
    assert run_saga(shop.database, provider, order, CONFIG).outcome is SagaOutcome.CANCELLED
    assert account.intents() == []
    assert shop.payment(order)["decline_code"] == "amount_not_chargeable"
    assert {kind for kind, _ in shop.messages()} == {"payment_failed", "order_status"}
    assert shop.invariant_violations() == set()


@pytest.mark.parametrize("refusal", ["deleted card", "too small"])
def test_a_request_that_is_refused_for_good_ends(
    refusal: str, shop: Shop, account: Account, provider: StripeProvider
) -> None:
    order = order_in(shop, "EUR", 20 if refusal == "too small" else 2000, state="pending")
    if refusal == "deleted card":
        shop.change_method(order, "pm_deleted")
    first = run_saga(shop.database, provider, order, CONFIG)
    assert first.outcome is (SagaOutcome.CANCELLED if refusal == "too small" else SagaOutcome.WAITING)
    assert "payment_failed" in {kind for kind, _ in shop.messages()}
    if refusal == "deleted card":
        assert shop.state(order) == ("reserved", "requires_action")
        shop.execute(
            "UPDATE app.orders SET placed_at = placed_at - interval '90 days', reserved_at = reserved_at - interval '90 days'"
        )
        assert run_saga(shop.database, provider, order, CONFIG).outcome is SagaOutcome.CANCELLED
    assert all(intent["status"] == "canceled" for intent in account.intents())
    assert shop.state(order) == ("cancelled", "abandoned")
    assert shop.invariant_violations() == set()


def test_a_partial_capture_does_not_pay_the_order(
    shop: Shop, account: Account, provider: StripeProvider, now: datetime, ingest: Ingest
) -> None:
    order = shop.order()
    event = intent_event(
        "evt_1", "payment_intent.succeeded", now, reference="pi_1", amount=TOTAL, received=1500,
        key=idempotency_key(shop, order),
    )  # fmt: skip
    receive_event(shop, event)
    assert ingest()["failed"] == 1
    assert shop.state(order) == ("reserved", "pending")
    [(key, state)] = dead_letters(shop)
    assert (key, state) == ("stripe evt_1", "open")
    with pytest.raises(Rejected, match=r"event evt_1 says that it is paid.*23\.80 EUR, but 15\.00 EUR were paid"):
        charge(shop.database, provider, order)
    assert account.intents() == []


def test_an_intent_that_captured_a_part_is_not_charged_and_what_came_goes_back(
    shop: Shop, account: Account, provider: StripeProvider
) -> None:
    order = shop.order(CARD_INSUFFICIENT_FUNDS)
    charge(shop.database, provider, order)
    [intent] = account.intents()
    account.capture_part(intent["id"], 1500)
    shop.execute("UPDATE app.payments SET next_attempt_at = clock_timestamp() WHERE order_id = %s", order)
    with pytest.raises(Rejected, match=r"15\.00 EUR of 23\.80 EUR were captured"):
        charge(shop.database, provider, order, 2)
    assert shop.state(order)[0] == "reserved"
    assert account.list_payments()[0].amount_minor == 1500
    refund(shop.database, provider, order, "cancelled")
    assert account.charges()[-1] == "refunded 1500 eur"


@pytest.mark.parametrize("card", [CARD_STOLEN, CARD_INSUFFICIENT_FUNDS])
def test_the_intent_of_a_cancelled_order_cannot_be_paid(
    card: str, shop: Shop, account: Account, provider: StripeProvider
) -> None:
    order = shop.order(card, state="pending")
    run_saga(shop.database, provider, order, CONFIG)
    if card == CARD_INSUFFICIENT_FUNDS:  # given up
        shop.execute(
            "UPDATE app.payments SET state = 'abandoned', abandoned_at = clock_timestamp(), next_attempt_at = NULL"
            " WHERE order_id = %s", order,
        )  # fmt: skip
        run_saga(shop.database, provider, order, CONFIG)
    assert shop.state(order) == ("cancelled", "abandoned")
    assert [intent["status"] for intent in account.intents()] == ["canceled"]


def test_a_refund_made_at_the_provider_is_taken_over_and_the_rest_refunded_once(
    shop: Shop, account: Account, provider: StripeProvider
) -> None:
    order, intent = paid_order(shop, provider)
    account.refund(intent, 1000)
    for _ in range(2):
        refund(shop.database, provider, order, "returned")
    assert account.charges() == [PAID, "refunded 1000 eur", "refunded 1380 eur"]
    rows = shop.execute("SELECT amount_minor, reason, state FROM app.refunds ORDER BY id")
    assert [tuple(row.values()) for row in rows] == [
        (1000, "refunded at the provider", "succeeded"), (1380, "returned", "succeeded"),
    ]  # fmt: skip
    assert run_saga(shop.database, provider, order, CONFIG).outcome is SagaOutcome.REFUNDED
    assert shop.invariant_violations() == set()


def test_a_payment_refunded_in_full_at_the_provider_settles_the_order_once(
    shop: Shop, account: Account, provider: StripeProvider
) -> None:
    order, intent = paid_order(shop, provider)
    account.refund(intent, TOTAL)
    refund(shop.database, provider, order, "returned")
    refund(shop.database, provider, order, "returned")
    assert account.charges() == [PAID, BACK]
    assert len(shop.execute("SELECT id FROM app.refunds")) == 1
    assert run_saga(shop.database, provider, order, CONFIG).outcome is SagaOutcome.REFUNDED


def test_a_waiting_event_is_applied_before_the_order_is_charged(
    shop: Shop, account: Account, provider: StripeProvider, now: datetime, ingest: Ingest
) -> None:
    order = shop.order(state="pending")
    event = intent_event(
        "evt_1", "payment_intent.succeeded", now, reference="pi_1", amount=TOTAL, key=idempotency_key(shop, order)
    )
    receive_event(shop, event)
    assert ingest()["outcomes"] == {"waiting": 1}
    assert run_saga(shop.database, provider, order, CONFIG).outcome is SagaOutcome.CONFIRMED
    assert account.intents() == []
    assert shop.payment(order)["provider_reference"] == "pi_1"
    assert ingest()["outcomes"] == {}


def test_refund_events_are_applied_in_any_order_and_once(
    shop: Shop, provider: StripeProvider, now: datetime, ingest: Ingest
) -> None:
    order, intent = paid_order(shop, provider)
    for number, (amount, status) in enumerate([(1000, "succeeded"), (1000, "pending"), (1380, "succeeded")], 1):
        name = f"re_{1 if amount == 1000 else 2}"
        receive_event(
            shop, refund_event(f"evt_{number}", now, intent=intent, refund=name, amount=amount, status=status)
        )
    assert ingest()["outcomes"] == {"applied": 2, "duplicate": 1}
    assert shop.payment(order)["refunded_minor"] == TOTAL
    assert run_saga(shop.database, provider, order, CONFIG).outcome is SagaOutcome.REFUNDED
    assert shop.order_state(order) == "refunded"
    assert "refunded" in {payload.get("status") for _, payload in shop.messages()}
    assert shop.invariant_violations() == set()


def test_a_partial_refund_event_leaves_the_order_as_it_is(
    shop: Shop, provider: StripeProvider, now: datetime, ingest: Ingest
) -> None:
    order = shop.order()
    charge(shop.database, provider, order)
    intent = str(shop.payment(order)["provider_reference"])
    receive_event(shop, refund_event("evt_1", now, intent=intent, refund="re_1", amount=1000))
    assert ingest()["outcomes"] == {"applied": 1}
    assert run_saga(shop.database, provider, order, CONFIG).outcome is SagaOutcome.CONFIRMED
    assert shop.payment(order)["refunded_minor"] == 1000
    assert shop.invariant_violations() == set()


def test_a_refund_event_waits_for_the_capture_and_one_of_another_application_is_ignored(
    shop: Shop, now: datetime, ingest: Ingest
) -> None:
    order = shop.order()
    receive_event(shop, refund_event("evt_2", now, intent="pi_1", refund="re_1", amount=TOTAL))
    assert ingest()["outcomes"] == {"waiting": 1}
    captured = intent_event(
        "evt_1", "payment_intent.succeeded", now, reference="pi_1", amount=TOTAL, key=idempotency_key(shop, order)
    )
    receive_event(shop, captured)
    assert sum(ingest()["outcomes"].values()) == 2
    ingest()
    assert shop.payment(order)["refunded_minor"] == TOTAL
    receive_event(shop, refund_event("evt_3", now, intent="pi_foreign", refund="re_9", amount=5))
    shop.execute("UPDATE app.payment_events SET received_at = received_at - interval '3 days' WHERE event_id = 'evt_3'")
    assert ingest()["outcomes"] == {"ignored": 1}
    assert dead_letters(shop) == []


@pytest.mark.parametrize("end", ["won", "lost"])
def test_a_dispute_is_recorded_and_operators_are_told(
    end: str, shop: Shop, provider: StripeProvider, now: datetime, ingest: Ingest
) -> None:
    order, intent = paid_order(shop, provider)
    for number, (name, status) in enumerate([("created", "needs_response"), ("closed", end), ("closed", end)], 1):
        receive_event(shop, dispute_event(
            f"evt_{number}", f"charge.dispute.{name}", now, intent=intent, dispute="dp_1", amount=TOTAL, status=status
        ))  # fmt: skip
    assert ingest()["outcomes"] == {"dispute_opened": 1, f"dispute_{end}": 1, "duplicate": 1}
    assert shop.fetch_one("SELECT state FROM app.disputes") == {"state": end}
    alerts = [payload["context"]["title"] for kind, payload in shop.messages() if kind == "templated_email"]
    assert [title.rpartition(" ")[2] for title in alerts] == ["open", end]
    outcome = run_saga(shop.database, provider, order, CONFIG).outcome
    assert outcome is (SagaOutcome.REFUNDED if end == "lost" else SagaOutcome.NOTHING_TO_DO)
    assert shop.invariant_violations() == set()


def test_events_of_razorpay_have_the_same_effects(shop: Shop, now: datetime, ingest: Ingest) -> None:
    order = shop.order(None, currency="INR")
    shop.add_payment(order, "pending", attempted=False, provider="razorpay")
    key = idempotency_key(shop, order)
    receive_event(
        shop, razorpay_event("payment.captured", now, payment="pay_1", amount=TOTAL, key=key), "razorpay", "E1"
    )
    entity = {
        "id": "rfnd_1",
        "payment_id": "pay_1",
        "amount": 1000,
        "currency": "INR",
        "status": "processed",
        "notes": [],
    }
    body = {
        "entity": "event", "event": "refund.processed", "contains": ["refund"], "created_at": int(now.timestamp()),
        "payload": {"refund": {"entity": entity}},
    }  # fmt: skip
    receive_event(shop, body, "razorpay", "E2")
    lost = {
        "id": "disp_1",
        "payment_id": "pay_1",
        "amount": TOTAL,
        "currency": "INR",
        "status": "lost",
        "reason_code": "fraud",
    }
    body = {**body, "event": "payment.dispute.lost", "payload": {"dispute": {"entity": lost}}}
    receive_event(shop, body, "razorpay", "E3")
    assert ingest()["outcomes"] == {"applied": 2, "dispute_lost": 1}
    assert shop.payment(order)["refunded_minor"] == TOTAL
