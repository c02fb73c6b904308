"""The messages about renewals: they add up, and never keep a renewal from happening."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backline.messages import registry
from backline.subscriptions.process_due_subscriptions import renew_chunk
from backline.subscriptions.process_single_subscription import process_single_subscription
from backline.subscriptions.rules import RenewalOutcome
from backline.subscriptions.send_renewal_reminders import send_renewal_reminders
from tests.integration.job_factory import create_job
from tests.integration.subscriptions.support import CONFIG, NOW, TODAY, Shop

REFUSED_EMAIL, REFUSED_PHONE = "no.such@address", "+9999999999"
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=300)
ODD_TEXTS = ["d" * 201, "d" * 10_000, "a\tb", "a\nb", r"\u0000", " \t", "🏳️‍🌈" * 300, "\u202eRTL\u200f"]
COUNTRIES = st.sampled_from(["DE", "FR", "GB", "IN", "JP", "US"])
FIXTURES = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def letters(shop: Shop) -> list[str]:
    return [row["run_id"] for row in shop.sql("SELECT run_id FROM backline.dead_letter ORDER BY id")]


def rendered_text(message: dict[str, Any]) -> str:
    _, text, _ = registry.get(message["type"]).parse(message["payload"]).rendered()  # type: ignore[attr-defined]
    return str(text)


def test_the_email_adds_up(shop: Shop) -> None:
    shop.renew(shop.subscription())
    [message] = shop.messages("order_confirmation")
    text = rendered_text(message)
    for line in ("2 × Coffee beans, 1 kg: €23.80", "Tax included: €3.80", "Total: €23.80"):  # noqa: RUF001
        assert line in text
    assert "€20.00" not in text


@FIXTURES
@given(st.integers(1, 50), st.integers(1, 100_000), COUNTRIES)
def test_the_lines_are_the_total_and_the_reminder_has_announced_it(
    shop: Shop, quantity: int, price: int, country: str
) -> None:
    one = shop.subscription(
        TODAY + timedelta(days=1), user_id=shop.user(country=country), quantity=quantity, unit_price_minor=price
    )
    create_job(shop.dsn, CONFIG, now=NOW).execute(send_renewal_reminders)
    shop.renew(one, NOW + timedelta(days=1))
    [order] = shop.orders(one)
    reminder, payload = (
        shop.messages(kind)[-1]["payload"] for kind in ("subscription_renewal_reminder", "order_confirmation")
    )
    shown = sum(line["quantity"] * line["unit_price"] for line in payload["lines"])
    assert shown + payload.get("shipping", 0) == payload["total"] == order["total_minor"] == reminder["amount"]
    assert payload["tax"] == order["tax_minor"]


@pytest.mark.parametrize("text", ODD_TEXTS, ids=lambda text: repr(text[:12]))
def test_odd_texts_are_cut(text: str, shop: Shop) -> None:
    one = shop.subscription(user_id=shop.user(name=text), product_id=shop.product(name=text))
    assert shop.renew(one).outcome is RenewalOutcome.ORDERED
    [message] = shop.messages("order_confirmation")
    assert len(message["payload"]["lines"][0]["description"]) <= 200
    assert message["payload"]["name"] in rendered_text(message)
    assert letters(shop) == []


@FIXTURES
@given(ANY_TEXT, ANY_TEXT)
def test_the_outcome_of_any_text_is_that_of_a_plain_one(shop: Shop, name: str, product: str) -> None:
    for stock, outcome in ((2, RenewalOutcome.ORDERED), (0, RenewalOutcome.DEFERRED)):
        one = shop.subscription(user_id=shop.user(name=name), product_id=shop.product(stock, name=product))
        assert shop.renew(one).outcome is outcome
    assert letters(shop) == []


@pytest.mark.parametrize(
    ("customer", "channels", "unsent"),
    [
        ({"email": REFUSED_EMAIL}, [], 1),
        ({"email": REFUSED_EMAIL, "phone": REFUSED_PHONE}, [], 2),
        ({"phone": REFUSED_PHONE}, ["email"], 1),
        ({"email": REFUSED_EMAIL, "phone": "+4915112345678"}, ["sms"], 1),
    ],
)
def test_a_refused_address_does_not_undo_the_renewal(
    customer: dict[str, Any], channels: list[str], unsent: int, shop: Shop
) -> None:
    one = shop.subscription(user_id=shop.user(**customer))
    result = create_job(shop.dsn, CONFIG, now=NOW, params={"subscription_id": one}).execute(process_single_subscription)
    assert (result["outcome"], result["unsent_messages"]) == ("ordered", unsent)
    assert [message["channel"] for message in shop.messages("order_confirmation")] == channels
    assert (len(shop.orders(one)), len(letters(shop)), shop.row(one)["next_on"].month) == (1, unsent, TODAY.month + 1)


def test_a_chunk_counts_renewals_whose_owners_could_not_be_notified(shop: Shop) -> None:
    for email in (REFUSED_EMAIL, "ann@example.com"):
        shop.subscription(user_id=shop.user(email=email))
    late = shop.subscription(user_id=shop.user(email="a,b@example.com"), product_id=shop.product(0))
    result = create_job(shop.dsn, CONFIG, now=NOW).execute(renew_chunk, {"first": 1, "last": 2**62})
    assert (result["outcomes"], result["failed"]) == ({"ordered": 2, "deferred": 1, "unsent_messages": 2}, 0)
    assert letters(shop)[1] == f"subscription:{late}:2026-03-01:deferred:2026-03-01"
