from __future__ import annotations

import pytest

from backline.errors import InvalidInput, Rejected, RetryableError
from backline.payments.charges import charge
from backline.payments.refunds import refund
from backline.payments.stripe_client import StripeProvider
from tests.integration.payments.support import CARD_INSUFFICIENT_FUNDS, CARD_NEEDS_AUTHENTICATION, Account, Shop

TO_SETTLE = "a refunded order has a payment that was refunded in full"
"""The rule that is satisfied again once the order's state has changed."""
PAID, BACK = "charged 2380 eur", "refunded 2380 eur"


def test_an_order_is_refunded_in_full_once(shop: Shop, account: Account, provider: StripeProvider) -> None:
    order = shop.order()
    charge(shop.database, provider, order)
    for _ in range(2):
        refund(shop.database, provider, order, "out of stock")
    assert account.charges() == [PAID, BACK]
    assert shop.state(order) == ("paid", "captured")  # the order's state changes with its stock
    assert shop.payment(order)["refunded_minor"] == 2380
    [row] = shop.execute("SELECT reason, state, amount_minor FROM app.refunds")
    assert row == {"reason": "out of stock", "state": "succeeded", "amount_minor": 2380}
    assert shop.invariant_violations() == {TO_SETTLE}


@pytest.mark.parametrize("keys", ["kept", "expired"])
def test_a_lost_answer_leads_to_no_second_refund(
    keys: str, shop: Shop, account: Account, provider: StripeProvider
) -> None:
    order = shop.order()
    charge(shop.database, provider, order)
    account.set_faults({"recipient": "refund", "action": "drop", "after": True, "times": 1})
    with pytest.raises(RetryableError):
        refund(shop.database, provider, order, "returned")
    assert shop.state(order) == ("paid", "captured")
    if keys == "expired":
        account.expire_idempotency_keys()
    refund(shop.database, provider, order, "returned")
    assert account.charges() == [PAID, BACK]
    assert shop.payment(order)["refunded_minor"] == 2380
    assert len(shop.execute("SELECT id FROM app.refunds")) == 1
    assert shop.invariant_violations() == {TO_SETTLE}


def test_an_unrecorded_charge_is_refunded(shop: Shop, account: Account, provider: StripeProvider) -> None:
    order = shop.order()
    account.set_faults({"recipient": "confirm", "action": "drop", "after": True, "times": 1})
    with pytest.raises(RetryableError):
        charge(shop.database, provider, order)
    refund(shop.database, provider, order, "cancelled")
    assert account.charges() == [PAID, BACK]
    assert shop.state(order) == ("reserved", "abandoned")
    refund(shop.database, provider, order, "cancelled")
    assert account.charges() == [PAID, BACK]
    assert shop.invariant_violations() == set()


@pytest.mark.parametrize("method", [CARD_INSUFFICIENT_FUNDS, CARD_NEEDS_AUTHENTICATION])
def test_a_cancelled_payment_is_closed_at_the_provider(
    method: str, shop: Shop, account: Account, provider: StripeProvider
) -> None:
    order = shop.order(method)
    charge(shop.database, provider, order)
    refund(shop.database, provider, order, "cancelled")
    assert [one["status"] for one in account.intents()] == ["canceled"]
    assert shop.state(order) == ("reserved", "abandoned")
    assert shop.invariant_violations() == set()


def test_an_order_whose_payment_was_cancelled_can_be_paid_again(
    shop: Shop, account: Account, provider: StripeProvider
) -> None:
    order = shop.order()
    refund(shop.database, provider, order, "another step failed")
    assert account.intents() == []  # the provider does not know it
    assert charge(shop.database, provider, order).state == "paid"
    rows = shop.execute("SELECT state, idempotency_key FROM app.payments WHERE order_id = %s ORDER BY id", order)
    number = shop.fetch_one("SELECT number FROM app.orders WHERE id = %s", order)["number"]
    assert [(row["state"], row["idempotency_key"]) for row in rows] == [
        ("abandoned", f"order-{number}"), ("captured", f"order-{number}-2"),
    ]  # fmt: skip
    assert account.charges() == [PAID]


def test_an_unpaid_order_is_not_refunded(shop: Shop, account: Account, provider: StripeProvider) -> None:
    order = shop.order(None)
    refund(shop.database, provider, order, "cancelled")
    assert account.intents() == []
    with pytest.raises(InvalidInput, match="there is no order"):
        refund(shop.database, provider, 999_999, "cancelled")


def test_a_refused_refund_is_an_error(shop: Shop, account: Account, provider: StripeProvider) -> None:
    order = shop.order()
    charge(shop.database, provider, order)
    body = {"error": {"type": "invalid_request_error", "code": "charge_disputed", "message": "The charge is disputed."}}
    account.set_faults({"recipient": "refund", "status": 400, "body": body, "times": 1})
    with pytest.raises(Rejected, match="disputed"):
        refund(shop.database, provider, order, "returned")
    assert shop.state(order) == ("paid", "captured")
    assert shop.fetch_one("SELECT state FROM app.refunds") == {"state": "failed"}
    assert shop.invariant_violations() == set()
