"""The Stripe emulator, used through Stripe's own client."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import stripe

from backline.payments.provider import PaymentState
from tests.integration.channels.sandbox import Sandbox
from tests.integration.payments.support import API_KEY, CARD_INSUFFICIENT_FUNDS, CARD_VALID, Account

ORDER: stripe.params.PaymentIntentCreateParams = {
    "amount": 500,
    "currency": "eur",
    "metadata": {"backline_payment": 'a "key"'},
}


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    sandbox = Sandbox.start(Path(tmp_path_factory.mktemp("stripe")) / "mail")
    yield Account(sandbox)
    sandbox.stop()


@pytest.fixture
def client(account: Account) -> stripe.StripeClient:
    account.clear()
    return stripe.StripeClient(API_KEY, base_addresses={"api": account.url}, max_network_retries=0)


def test_an_intent_is_captured_at_most_once(client: stripe.StripeClient, account: Account) -> None:
    made = client.v1.payment_intents.create(ORDER)
    assert made.status == "requires_payment_method"
    assert client.v1.payment_intents.confirm(made.id, {"payment_method": CARD_VALID}).status == "succeeded"
    with pytest.raises(stripe.InvalidRequestError) as caught:
        client.v1.payment_intents.confirm(made.id, {"payment_method": CARD_VALID})
    assert caught.value.code == "payment_intent_unexpected_state"
    assert account.charges() == ["charged 500 eur"]


def test_an_idempotency_key_returns_the_same_response(client: stripe.StripeClient) -> None:
    first = client.v1.payment_intents.create(ORDER, {"idempotency_key": "k"})
    assert client.v1.payment_intents.create(ORDER, {"idempotency_key": "k"}).id == first.id
    with pytest.raises(stripe.IdempotencyError):
        client.v1.payment_intents.create({**ORDER, "amount": 501}, {"idempotency_key": "k"})
    for _ in range(2):  # a decline is a response too
        with pytest.raises(stripe.CardError) as caught:
            client.v1.payment_intents.confirm(
                first.id, {"payment_method": CARD_INSUFFICIENT_FUNDS}, {"idempotency_key": "c"}
            )
        assert caught.value.code == "card_declined"


def test_intents_are_found_by_metadata(client: stripe.StripeClient) -> None:
    made = client.v1.payment_intents.create(ORDER)
    query = 'metadata["backline_payment"]:"a \\"key\\""'
    assert [one.id for one in client.v1.payment_intents.search({"query": query}).data] == [made.id]
    assert client.v1.payment_intents.search({"query": 'metadata["backline_payment"]:"b"'}).data == []


def test_an_amount_is_refunded_once(client: stripe.StripeClient) -> None:
    made = client.v1.payment_intents.create(ORDER)
    client.v1.payment_intents.confirm(made.id, {"payment_method": CARD_VALID})
    assert client.v1.refunds.create({"payment_intent": made.id, "amount": 200}).amount == 200
    with pytest.raises(stripe.InvalidRequestError):
        client.v1.refunds.create({"payment_intent": made.id, "amount": 301})
    client.v1.refunds.create({"payment_intent": made.id, "amount": 300})
    with pytest.raises(stripe.InvalidRequestError) as caught:
        client.v1.refunds.create({"payment_intent": made.id, "amount": 1})
    assert caught.value.code == "charge_already_refunded"


def test_listed_payments_include_refunds(client: stripe.StripeClient, account: Account) -> None:
    made = client.v1.payment_intents.create({**ORDER, "metadata": {"order_id": "17"}})
    client.v1.payment_intents.confirm(made.id, {"payment_method": CARD_VALID})
    client.v1.refunds.create({"payment_intent": made.id, "amount": 200})
    now = datetime.now(UTC)
    [listed] = account.provider().list_payments(now - timedelta(hours=1), now + timedelta(hours=1))
    assert (listed.state, listed.refunded_minor, listed.order_id) == (PaymentState.CAPTURED, 200, 17)


def test_another_api_key_is_rejected(account: Account) -> None:
    stranger = stripe.StripeClient("sk_test_other", base_addresses={"api": account.url}, max_network_retries=0)
    with pytest.raises(stripe.AuthenticationError):
        stranger.v1.payment_intents.list()


def test_payments_are_listed_in_pages(client: stripe.StripeClient, account: Account) -> None:
    made = [client.v1.payment_intents.create({**ORDER, "amount": 100 + n}).id for n in range(105)]
    now = datetime.now(UTC)
    listed = list(account.provider().list_payments(now - timedelta(hours=1), now + timedelta(hours=1)))
    assert [one.reference for one in listed] == made[::-1]
    assert (listed[0].amount_minor, listed[0].currency, listed[0].state) == (204, "EUR", PaymentState.FAILED)
    assert list(account.provider().list_payments(now + timedelta(hours=1), now + timedelta(hours=2))) == []


def test_the_pages_show_charges(client: stripe.StripeClient, account: Account) -> None:
    made = client.v1.payment_intents.create(ORDER)
    client.v1.payment_intents.confirm(made.id, {"payment_method": CARD_VALID})
    page = account.sandbox.web.get("/stripe/")
    assert page.status_code == 200
    assert CARD_VALID in page.text
    assert account.sandbox.web.get("/stripe/fault-injection").status_code == 200
