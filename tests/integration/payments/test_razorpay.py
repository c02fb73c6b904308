"""Razorpay's payments are read and refunded by its API, here that of the sandbox."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from backline.channels.http import HttpGateway
from backline.errors import AuthenticationFailed, Rejected, RetryableError
from backline.money import Money
from backline.orders.process_order import SagaOutcome, run_saga
from backline.orders.settings import OrderSettings
from backline.payments.provider import PaymentState
from backline.payments.razorpay_client import RazorpayProvider
from backline.payments.refunds import refund
from backline.payments.stripe_client import StripeProvider
from tests.integration.channels.sandbox import Sandbox
from tests.integration.payments.support import Shop

TOTAL = 2380
KEY_ID = "rzp_test_sandbox"


@pytest.fixture
def razorpay(sandbox: Sandbox) -> Iterator[RazorpayProvider]:
    yield create_provider(sandbox)
    sandbox.web.put("/razorpay/faults", json=[])
    sandbox.web.delete("/razorpay/api/payments")


def create_provider(sandbox: Sandbox, secret: str = "sandbox") -> RazorpayProvider:
    return RazorpayProvider(HttpGateway("razorpay_api", sandbox.url("/razorpay"), login=KEY_ID, password=secret), 5.0)


def pay(sandbox: Sandbox, **payment: Any) -> str:
    """A customer pays at the checkout; the payment's id."""
    answer = sandbox.web.post("/razorpay/api/payments", json={"amount": TOTAL, "currency": "INR", **payment})
    return str(answer.json()["id"])


def paid_order(shop: Shop, sandbox: Sandbox) -> tuple[int, str]:
    order = shop.order(None, currency="INR")
    reference = pay(sandbox)
    shop.add_payment(order, "captured", reference=reference, provider="razorpay")
    return order, reference


def refunds(razorpay: RazorpayProvider, reference: str) -> list[int]:
    return [each.amount.minor for each in razorpay.list_refunds(reference)]


def test_an_order_is_refunded_in_full_once(shop: Shop, sandbox: Sandbox, razorpay: RazorpayProvider) -> None:
    order, reference = paid_order(shop, sandbox)
    for _ in range(2):
        refund(shop.database, razorpay, order, "returned")
    assert refunds(razorpay, reference) == [TOTAL]
    assert shop.payment(order)["refunded_minor"] == TOTAL


def test_a_refund_from_the_dashboard_is_taken_over(shop: Shop, sandbox: Sandbox, razorpay: RazorpayProvider) -> None:
    order, reference = paid_order(shop, sandbox)
    razorpay.refund(reference, Money(1000, "INR"), "by hand")
    refund(shop.database, razorpay, order, "returned")
    assert sorted(refunds(razorpay, reference)) == [1000, 1380]


def test_a_lost_answer_leads_to_no_second_refund(shop: Shop, sandbox: Sandbox, razorpay: RazorpayProvider) -> None:
    order, reference = paid_order(shop, sandbox)
    sandbox.web.put("/razorpay/faults", json=[{"recipient": "refund", "action": "drop", "after": True, "times": 1}])
    with pytest.raises(RetryableError):
        refund(shop.database, razorpay, order, "returned")
    refund(shop.database, razorpay, order, "returned")
    assert refunds(razorpay, reference) == [TOTAL]
    assert shop.payment(order)["refunded_minor"] == TOTAL


def test_the_saga_refunds_with_the_provider_that_was_paid(
    shop: Shop, sandbox: Sandbox, razorpay: RazorpayProvider, provider: StripeProvider
) -> None:
    order, reference = paid_order(shop, sandbox)
    shop.execute("UPDATE app.products SET retired_at = clock_timestamp()")
    done = run_saga(shop.database, provider, order, OrderSettings(), other_provider={"razorpay": razorpay}.__getitem__)
    assert done.outcome is SagaOutcome.REFUNDED
    assert refunds(razorpay, reference) == [TOTAL]
    assert shop.invariant_violations() == set()


def test_payments_are_listed_in_pages(sandbox: Sandbox, razorpay: RazorpayProvider) -> None:
    for number in range(101):
        pay(sandbox, notes={"order_id": str(number)})
    pay(sandbox, status="failed")
    now = datetime.now(UTC)
    found = list(razorpay.list_payments(now - timedelta(hours=1), now + timedelta(hours=1)))
    assert [each.state for each in found] == [PaymentState.FAILED, *[PaymentState.CAPTURED] * 101]
    assert {each.order_id for each in found} == {None, *range(101)}


def test_refusals_and_failures_have_their_class(sandbox: Sandbox, razorpay: RazorpayProvider) -> None:
    reference = pay(sandbox)
    with pytest.raises(Rejected, match="greater than"):
        razorpay.refund(reference, Money(TOTAL + 1, "INR"), "too much")
    with pytest.raises(AuthenticationFailed):
        create_provider(sandbox, "another").list_refunds(reference)
    sandbox.web.put("/razorpay/faults", json=[{"status": 503, "body": {"error": {"code": "SERVER_ERROR"}}}])
    with pytest.raises(RetryableError):
        razorpay.list_refunds(reference)
