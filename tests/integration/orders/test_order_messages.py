"""Messages never decide about an order: whatever its texts and its customer's addresses are, it is paid and confirmed once."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backline.messages import registry
from backline.orders.process_order import SagaResult, process_order, run_saga
from backline.orders.process_pending_orders import process_pending_orders
from backline.orders.send_order_reminders import send_order_reminders
from backline.orders.settings import OrderSettings
from backline.payments.stripe_client import StripeProvider
from tests.integration.job_factory import create_job
from tests.integration.orders.support import Shop
from tests.integration.payments.support import Account

CONFIG = OrderSettings(order_url="https://shop.example/orders/{order}", grace_seconds=0)
REFUSED_EMAIL = "no.such@address"
REFUSED_PHONE = "+9999999999"
ODD_TEXTS = [
    "d" * 201, "d" * 10_000, "a\tb", "a\nb\r\nc", r"NUL \u0000 \x00", "\x01\x7f\x85\u2028\u2029", " \t\u3000", "🏳️‍🌈" * 300,
    "\u202eRTL \u200fאבג\u200e", "{{ 7 * 7 }} <b>&amp;</b> %s {0}", "'; DROP TABLE app.orders; --",
]  # fmt: skip
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=300)
LETTERS = "SELECT name, run_id, class, cause FROM backline.dead_letter ORDER BY id"


def odd_order(shop: Shop, name: str, description: str, **customer: Any) -> int:
    order = shop.order(shop.customer(**{"email": None, "name": name, **customer}), (shop.product(), 2))
    shop.execute("UPDATE app.order_lines SET description = %s WHERE order_id = %s", description, order)
    return order


def assert_confirmed(shop: Shop, account: Account, order: int, done: SagaResult) -> None:
    """As an order with plain texts: paid, confirmed, captured once, not refunded."""
    assert (done.state, done.outcome, done.reason) == ("confirmed", "confirmed", "")
    [intent] = [
        one
        for one in account.intents()
        if one["metadata"]["backline_payment"] == shop.payment(order)["idempotency_key"]
    ]
    assert (intent["status"], intent["amount_received"]) == ("succeeded", 2870)
    payment = shop.payment(order)
    assert (payment["state"], payment["refunded_minor"], payment["attempts"]) == ("captured", 0, 1)
    assert account.refunded_count() == 0
    assert shop.invariant_violations() == {}


@pytest.mark.parametrize("text", ODD_TEXTS, ids=lambda text: repr(text[:12]))
def test_an_odd_text_is_cut_and_the_order_goes_through(
    text: str, shop: Shop, provider: StripeProvider, account: Account
) -> None:
    order = odd_order(shop, text, text)
    done = run_saga(shop.database, provider, order, CONFIG)
    assert_confirmed(shop, account, order, done)
    assert (done.unsent_messages, shop.execute(LETTERS)) == (0, [])
    for kind in ("payment_receipt", "order_confirmation"):
        [message] = shop.messages(kind)
        subject, body, _ = registry.get(kind).parse(message["payload"]).rendered()  # type: ignore[attr-defined]
        assert subject
        assert message["payload"]["name"] in body
        assert len(message["payload"]["name"]) <= 200
    [line] = message["payload"]["lines"]
    assert len(line["description"]) <= 200
    assert line["description"].endswith("…") == (len(text) > 200)


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ANY_TEXT, ANY_TEXT)
def test_the_outcome_of_any_text_is_that_of_a_plain_one(
    shop: Shop, provider: StripeProvider, account: Account, name: str, description: str
) -> None:
    order = odd_order(shop, name, description)
    assert_confirmed(shop, account, order, run_saga(shop.database, provider, order, CONFIG))
    assert shop.execute(LETTERS) == []


@pytest.mark.parametrize(
    ("customer", "sent", "letters"),
    [
        ({"email": REFUSED_EMAIL}, set(), 2),
        ({"email": REFUSED_EMAIL, "phone": REFUSED_PHONE}, set(), 3),
        ({"phone": REFUSED_PHONE}, {("payment_receipt", "email"), ("order_confirmation", "email")}, 1),
        ({"email": REFUSED_EMAIL, "phone": "+4915112345678"}, {("order_confirmation", "sms")}, 2),
    ],
)
def test_an_address_that_is_refused_reverses_nothing(
    customer: dict[str, Any], sent: set[tuple[str, str]], letters: int, shop: Shop, provider: StripeProvider,
    account: Account, database: str,
) -> None:  # fmt: skip
    order = odd_order(shop, "Ann", "Cup", **customer)
    result = create_job(database, CONFIG, params={"order_id": order}, provider=provider).execute(process_order)
    assert result.pop("unsent_messages") == letters
    assert_confirmed(shop, account, order, SagaResult(**result))
    assert {(message["type"], message["channel"]) for message in shop.messages("%")} == sent
    found = shop.execute(LETTERS)
    assert len(found) == letters
    assert all(letter["class"] == "validation" and letter["cause"].startswith("recipient: ") for letter in found)
    assert len({letter["run_id"] for letter in found}) == letters
    assert all(letter["run_id"].startswith(f"order:{order}:") for letter in found)


def test_the_sweep_counts_orders_whose_customers_could_not_be_notified(
    database: str, shop: Shop, provider: StripeProvider
) -> None:
    odd_order(shop, "Ann", "Cup", email=REFUSED_EMAIL)
    odd_order(shop, "Ann\t", "Cup")
    result = create_job(database, CONFIG, provider=provider).execute(process_pending_orders)["orders"]
    assert result["outcomes"] == {"confirmed": 2, "unsent_messages": 1}


def test_a_cancelled_order_of_an_odd_customer_is_cancelled(shop: Shop, provider: StripeProvider) -> None:
    order = odd_order(shop, "Ann", "Cup", email=REFUSED_EMAIL)
    shop.execute("UPDATE app.products SET retired_at = now()")
    done = run_saga(shop.database, provider, order, CONFIG)
    assert (done.state, done.unsent_messages) == ("cancelled", 1)
    assert [letter["run_id"] for letter in shop.execute(LETTERS)] == [f"order:{order}:status:cancelled"]


@pytest.mark.parametrize("number", ["A/1 ?#&é", "n" * 70, "a\tb", "%2F"])
def test_an_odd_number_is_percent_encoded_in_the_reminders_link(number: str, database: str, shop: Shop) -> None:
    order = odd_order(shop, "Ann\tLee", "Cup")
    shop.execute("UPDATE app.orders SET number = %s WHERE id = %s", number, order)
    shop.reserve(order)
    shop.backdate(order, 25)
    result = create_job(database, CONFIG).execute(send_order_reminders)
    assert (result["outcomes"], result["failed"]) == ({"payment_missing": 1}, 0)
    [message] = shop.messages("order_reminder")
    registry.get("order_reminder").parse(message["payload"])
    assert (message["payload"]["name"], len(message["payload"]["order"])) == ("Ann Lee", min(len(number), 60))
