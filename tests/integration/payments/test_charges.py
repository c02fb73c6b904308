"""Charging orders against a stateful provider over real HTTP."""

from __future__ import annotations

import threading
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from backline.channels.http import HttpGateway
from backline.errors import (
    AuthenticationFailed,
    BacklineError,
    InvalidInput,
    Misconfigured,
    PermanentError,
    RateLimited,
    RetryableError,
)
from backline.payments.charges import ChargeOutcome, charge
from backline.payments.declines import Decline
from backline.payments.stripe_client import StripeProvider
from tests.integration.payments.support import (
    CARD_INSUFFICIENT_FUNDS,
    CARD_NEEDS_AUTHENTICATION,
    CARD_STOLEN,
    CARD_VALID,
    Account,
    Shop,
)

TOTAL = 2380


def test_an_order_is_charged_once_with_one_receipt(shop: Shop, account: Account, provider: StripeProvider) -> None:
    order = shop.order()
    first = charge(shop.database, provider, order)
    assert first == ChargeOutcome("paid", shop.payment(order)["id"])
    assert charge(shop.database, provider, order) == first
    assert shop.state(order) == ("paid", "captured")
    assert account.charges() == [f"charged {TOTAL} eur"]
    [(kind, payload)] = shop.messages()
    assert kind == "payment_receipt"
    assert (payload["amount"], payload["currency"], payload["name"]) == (TOTAL, "EUR", "Ann")
    [intent] = account.intents()
    payment = shop.payment(order)
    assert (payment["provider_reference"], payment["attempts"]) == (intent["id"], 1)
    assert intent["metadata"] == {"backline_payment": payment["idempotency_key"], "order_id": str(order)}
    assert shop.invariant_violations() == set()


@pytest.mark.parametrize(
    ("method", "state", "decline", "stands", "reason"),
    [
        (CARD_INSUFFICIENT_FUNDS, "declined", Decline("soft", "insufficient_funds"), "failed", "insufficient_funds"),
        (CARD_STOLEN, "declined", Decline("hard", "stolen_card"), "abandoned", "card_declined"),
        (CARD_NEEDS_AUTHENTICATION, "needs_action", Decline("needs_action", "authentication_required"), "requires_action", "authentication_required"),
        (None, "needs_action", Decline("needs_action", "payment_method_missing"), "requires_action", "other"),
    ],
)  # fmt: skip
def test_a_decline_is_reported_once_and_not_repeated(
    method: str | None,
    state: str,
    decline: Decline,
    stands: str,
    reason: str,
    shop: Shop,
    account: Account,
    provider: StripeProvider,
) -> None:
    order = shop.order(method)
    first = charge(shop.database, provider, order)
    assert (first.state, first.decline) == (state, decline)
    assert shop.state(order) == ("reserved", stands)
    again = charge(shop.database, provider, order)
    assert (again.state, again.decline) == (state, decline)
    assert len(shop.attempt_outcomes(order)) == 1
    assert account.charges() == []
    [(kind, payload)] = shop.messages()
    assert (kind, payload["reason"]) == ("payment_failed", reason)
    assert payload["fix_url"].startswith("https://")
    assert ("retry_on" in payload) == (decline.kind == "soft")
    due = shop.payment(order)["next_attempt_at"]
    assert (first.next_attempt_at, again.next_attempt_at) == (due, due)
    assert shop.invariant_violations() == set()


def test_a_payment_is_captured_once_the_customer_has_acted(
    shop: Shop, account: Account, provider: StripeProvider
) -> None:
    order = shop.order(CARD_NEEDS_AUTHENTICATION)
    charge(shop.database, provider, order)
    [intent] = account.intents()
    confirmed = account.sandbox.web.post(
        f"/stripe/v1/payment_intents/{intent['id']}/confirm", data={"payment_method": CARD_VALID},
        headers={"Authorization": "Bearer sk_test_sandbox"},
    )  # fmt: skip
    assert confirmed.status_code == 200
    assert charge(shop.database, provider, order).state == "paid"
    assert shop.state(order) == ("paid", "captured")
    assert len(account.charges()) == 1
    assert shop.attempt_outcomes(order) == ["requires_action", "captured"]
    assert shop.invariant_violations() == set()


def test_a_new_order_uses_the_method_of_the_last_one(shop: Shop, account: Account, provider: StripeProvider) -> None:
    user = shop.user()
    charge(shop.database, provider, shop.order("pm_mine", user=user))
    other = shop.order(None, user=user)
    assert charge(shop.database, provider, other).state == "paid"
    assert shop.payment(other)["method_reference"] == "pm_mine"
    assert len(account.charges()) == 2


def test_an_unreserved_order_is_not_charged(shop: Shop, account: Account, provider: StripeProvider) -> None:
    order = shop.order(state="pending")
    with pytest.raises(InvalidInput, match="is pending; only a reserved one"):
        charge(shop.database, provider, order)
    with pytest.raises(InvalidInput, match="there is no order 999999"):
        charge(shop.database, provider, 999_999)
    assert account.intents() == []


def test_a_callers_transaction_is_refused(shop: Shop, provider: StripeProvider) -> None:
    order = shop.order()
    with shop.database.transaction(), pytest.raises(InvalidInput, match="is in a transaction"):
        charge(shop.database, provider, order)


@pytest.mark.parametrize("lost", ["create", "confirm"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_lost_answer_leads_to_no_second_charge(
    lost: str,
    when: str,
    shop: Shop,
    account: Account,
    provider: StripeProvider,
) -> None:
    order = shop.order()
    account.set_faults({"recipient": lost, "action": "drop", "after": when == "after", "times": 1})
    with pytest.raises(RetryableError):
        charge(shop.database, provider, order)
    assert shop.attempt_outcomes(order) == [None]
    assert charge(shop.database, provider, order).state == "paid"
    assert account.charges() == [f"charged {TOTAL} eur"]
    assert len(account.intents()) == 1
    assert shop.attempt_outcomes(order) == ["captured"]


@pytest.mark.parametrize("lost", ["create", "confirm"])
def test_a_charge_is_found_by_its_metadata_when_keys_have_expired(
    lost: str, shop: Shop, account: Account, provider: StripeProvider
) -> None:
    order = shop.order()
    account.set_faults({"recipient": lost, "action": "drop", "after": True, "times": 1})
    with pytest.raises(RetryableError):
        charge(shop.database, provider, order)
    account.expire_idempotency_keys()
    assert charge(shop.database, provider, order).state == "paid"
    assert account.charges() == [f"charged {TOTAL} eur"]
    assert len(account.intents()) == 1


@pytest.mark.parametrize(
    ("rule", "error"),
    [
        ({"status": 429, "body": {"error": {"type": "invalid_request_error", "code": "rate_limit"}}}, RateLimited),
        ({"status": 503, "body": "Service Unavailable"}, RetryableError),
        ({"status": 500, "body": {"error": {"type": "api_error"}}}, RetryableError),
    ],
)
def test_a_failing_provider_is_retried(
    rule: dict[str, Any], error: type[BacklineError], shop: Shop, account: Account, provider: StripeProvider
) -> None:
    order = shop.order()
    account.set_faults({"recipient": "confirm", "times": 1, **rule})
    with pytest.raises(error):
        charge(shop.database, provider, order)
    assert charge(shop.database, provider, order).state == "paid"
    assert shop.attempt_outcomes(order) == ["captured"]


def test_a_hanging_provider_times_out(shop: Shop, account: Account) -> None:
    order = shop.order()
    account.set_faults({"recipient": "confirm", "action": "slow", "seconds": 30.0, "after": True, "times": 1})
    with pytest.raises(RetryableError):
        charge(shop.database, account.provider(timeout=0.5), order)
    assert charge(shop.database, account.provider(), order).state == "paid"
    assert len(account.charges()) == 1


def test_a_refused_key_is_not_shown(shop: Shop, account: Account) -> None:
    order = shop.order()
    with pytest.raises(AuthenticationFailed) as caught:
        charge(shop.database, account.provider("sk_test_very_secret"), order)
    assert "secret" not in str(caught.value)
    assert shop.attempt_outcomes(order) == ["error"]
    assert charge(shop.database, account.provider(), order).state == "paid"
    assert shop.attempt_outcomes(order) == ["error", "captured"]


def test_a_connection_without_a_key_is_an_error() -> None:
    with pytest.raises(Misconfigured, match="needs a password"):
        StripeProvider(HttpGateway("stripe_api", "http://localhost:1"), 1.0)


def test_another_account_is_not_charged_for_an_open_attempt(
    shop: Shop, account: Account, provider: StripeProvider
) -> None:
    order = shop.order()
    shop.execute("UPDATE app.payments SET provider_reference = 'pi_elsewhere' WHERE order_id = %s", order)
    shop.execute(
        "WITH p AS (UPDATE app.payments SET attempts = 1 WHERE order_id = %s RETURNING id) INSERT INTO app.payment_attempts (payment_id, number)"
        " SELECT id, 1 FROM p", order,
    )  # fmt: skip
    with pytest.raises(Misconfigured, match="another account"):
        charge(shop.database, provider, order)
    assert account.intents() == []
    assert shop.attempt_outcomes(order) == [None]


def test_overlapping_calls_charge_once(shop: Shop, account: Account, provider: StripeProvider, database: str) -> None:
    order = shop.order()
    found: list[Any] = []

    def run() -> None:
        with psycopg.connect(database, autocommit=True, row_factory=dict_row) as connection:
            try:
                found.append(charge(connection, provider, order).state)
            except BacklineError as exc:
                found.append(exc)

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == ["paid"] * 6
    assert account.charges() == [f"charged {TOTAL} eur"]
    assert len(shop.messages()) == 1
    assert shop.invariant_violations() == set()


def test_a_charge_for_a_cancelled_order_is_refunded(shop: Shop, account: Account, provider: StripeProvider) -> None:
    order = shop.order()
    account.set_faults({"recipient": "confirm", "action": "drop", "after": True, "times": 1})
    with pytest.raises(RetryableError):
        charge(shop.database, provider, order)
    shop.execute("UPDATE app.products SET reserved = 0")
    shop.execute("UPDATE app.orders SET state = 'cancelled', cancelled_at = clock_timestamp() WHERE id = %s", order)
    outcome = charge(shop.database, provider, order)
    assert (outcome.state, outcome.decline) == ("declined", Decline("hard", "payment_intent_canceled"))
    assert account.charges() == [f"charged {TOTAL} eur", f"refunded {TOTAL} eur"]
    assert shop.state(order) == ("cancelled", "abandoned")
    assert shop.invariant_violations() == set()


def test_a_customer_who_adds_a_card_is_charged(shop: Shop, account: Account, provider: StripeProvider) -> None:
    order = shop.order(None)
    assert charge(shop.database, provider, order).decline == Decline("needs_action", "payment_method_missing")
    shop.change_method(order, CARD_VALID)
    assert charge(shop.database, provider, order).state == "paid"
    assert account.charges() == [f"charged {TOTAL} eur"]
    assert shop.attempt_outcomes(order) == ["requires_action", "captured"]
    assert shop.invariant_violations() == set()


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_card_changed_after_a_lost_answer_is_charged_at_most_once(
    when: str, shop: Shop, account: Account, provider: StripeProvider
) -> None:
    order = shop.order()
    shop.change_method(order, CARD_INSUFFICIENT_FUNDS if when == "before" else CARD_VALID)
    account.set_faults({"recipient": "confirm", "action": "drop", "after": True, "times": 1})
    with pytest.raises(RetryableError):
        charge(shop.database, provider, order)
    shop.change_method(order, "pm_another")
    shop.execute("UPDATE app.payments SET customer_reference = 'cus_1'")
    if when == "before":
        with pytest.raises(PermanentError, match="same parameters"):
            charge(shop.database, provider, order)
    assert charge(shop.database, provider, order).state == "paid"
    assert account.charges() == [f"charged {TOTAL} eur"]
    assert len(account.intents()) == 1
    assert shop.invariant_violations() == set()
