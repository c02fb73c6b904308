"""send_order_reminders: once for each order and stage, even with repeated and overlapping runs."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from typing import Any

import pytest

from backline.messages import registry
from backline.orders.process_order import run_saga
from backline.orders.send_order_reminders import send_order_reminders
from backline.orders.settings import OrderSettings
from backline.payments.stripe_client import StripeProvider
from tests.integration.job_factory import create_job
from tests.integration.orders.support import Shop
from tests.integration.payments.support import CARD_NEEDS_AUTHENTICATION, Account

CONFIG = OrderSettings()
Remind = Callable[..., dict[str, Any]]


@pytest.fixture
def remind(database: str) -> Remind:
    def run(config: OrderSettings = CONFIG) -> dict[str, Any]:
        result: dict[str, Any] = create_job(database, config).execute(send_order_reminders)
        return result

    return run


@pytest.fixture
def unpaid_order(shop: Shop, provider: StripeProvider) -> int:
    order = shop.order(shop.customer(language="de"), (shop.product(), 2), card=CARD_NEEDS_AUTHENTICATION)
    run_saga(shop.database, provider, order, CONFIG)
    return order


def test_an_order_gets_each_reminder_once(shop: Shop, unpaid_order: int, remind: Remind) -> None:
    assert remind()["outcomes"] == {}
    shop.backdate(unpaid_order, 25)
    assert remind()["outcomes"] == {"payment_missing": 1}
    assert remind()["outcomes"] == {}
    shop.backdate(unpaid_order, 24)
    assert remind()["outcomes"] == {"payment_missing_again": 1}
    shop.backdate(unpaid_order, 24)
    assert remind()["outcomes"] == {}
    payloads = [message["payload"] for message in shop.messages("order_reminder")]
    assert [payload["stage"] for payload in payloads] == ["payment_due", "payment_due"]
    assert (payloads[0]["order"], payloads[0]["amount"], payloads[0]["currency"]) == ("O-0001", 2870, "EUR")
    # 72 hours after its stock was reserved, which was moved 48 hours into the past since the first reminder.
    query = "SELECT ((reserved_at + interval '120 hours') AT TIME ZONE 'Europe/Berlin')::date AS day FROM app.orders"
    assert date.fromisoformat(payloads[0]["due_on"]) == shop.fetch_one(query)["day"]


def test_a_first_reminder_whose_time_is_over_is_left_out(shop: Shop, unpaid_order: int, remind: Remind) -> None:
    shop.backdate(unpaid_order, 49)
    assert remind()["outcomes"] == {"payment_missing_again": 1}


def test_a_paid_order_gets_no_reminder(
    shop: Shop, provider: StripeProvider, account: Account, unpaid_order: int, remind: Remind
) -> None:
    account.confirm_open_intents()
    run_saga(shop.database, provider, unpaid_order, CONFIG)
    shop.backdate(unpaid_order, 25)
    assert remind()["outcomes"] == {}


def test_a_closed_account_gets_no_reminder(shop: Shop, unpaid_order: int, remind: Remind) -> None:
    shop.backdate(unpaid_order, 25)
    shop.database.execute("UPDATE app.users SET state = 'deactivated', deactivated_at = now()")
    assert remind()["outcomes"] == {}


@pytest.mark.parametrize(("days", "expected"), [(6, {}), (8, {"review": 1}), (29, {"review": 1}), (31, {})])
def test_a_review_is_requested_within_its_time(
    days: int, expected: dict[str, int], shop: Shop, provider: StripeProvider, remind: Remind
) -> None:
    order = shop.order(shop.customer(), (shop.product(), 2))
    run_saga(shop.database, provider, order, CONFIG)
    shop.deliver(order)
    shop.backdate(order, days * 24)
    assert remind()["outcomes"] == expected
    for message in shop.messages("order_reminder"):
        content = registry.get("order_reminder").parse(message["payload"]).email()  # type: ignore[attr-defined]
        assert content.subject == "How do you like your order? (O-0001)"
        assert "http://localhost:8080/orders/O-0001" in content.text


def test_a_customer_with_a_wrong_address_is_one_dead_letter_until_it_is_corrected(
    shop: Shop, provider: StripeProvider, remind: Remind
) -> None:
    cup = shop.product()
    orders = [
        shop.order(shop.customer(f"c{n}@example.com"), (cup, 1), card=CARD_NEEDS_AUTHENTICATION) for n in range(3)
    ]
    for order in orders:
        run_saga(shop.database, provider, order, CONFIG)
        shop.backdate(order, 25)
    shop.database.execute("UPDATE app.users SET email = 'a;b@example.com' WHERE email = 'c1@example.com'")
    result = remind()
    assert (result["outcomes"], result["failed"]) == ({"payment_missing": 2}, 1)
    assert [failure["key"] for failure in result["failures"]] == ["O-0002 payment_missing"]
    assert shop.fetch_one("SELECT count(*) AS stored FROM app.order_reminders")["stored"] == 2
    result = remind()
    assert (result["done"], result["failed"], result["skipped"]) == (0, 0, 1)
    shop.database.execute("UPDATE app.users SET email = 'c1@example.com' WHERE email = 'a;b@example.com'")
    assert remind()["outcomes"] == {"payment_missing": 1}
    assert [row["state"] for row in shop.execute("SELECT state FROM backline.dead_letter")] == ["resolved"]


def test_overlapping_runs_remind_once(shop: Shop, provider: StripeProvider, remind: Remind) -> None:
    cup, customer = shop.product(40), shop.customer()
    for _ in range(20):
        order = shop.order(customer, (cup, 1), card=CARD_NEEDS_AUTHENTICATION)
        run_saga(shop.database, provider, order, CONFIG)
        shop.backdate(order, 25)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: remind(), range(4)))
    assert sum(result["outcomes"].get("payment_missing", 0) for result in results) == 20
    assert len(shop.messages("order_reminder")) == 20


def test_a_run_is_bounded(shop: Shop, provider: StripeProvider, remind: Remind) -> None:
    cup, customer = shop.product(), shop.customer()
    for _ in range(3):
        order = shop.order(customer, (cup, 1), card=CARD_NEEDS_AUTHENTICATION)
        run_saga(shop.database, provider, order, CONFIG)
        shop.backdate(order, 25)
    result = remind(OrderSettings(reminder_batch_limit=2))
    assert (result["outcomes"], result["limit_reached"]) == ({"payment_missing": 2}, True)
    assert remind()["outcomes"] == {"payment_missing": 1}


def test_the_limit_is_of_the_run_not_of_each_stage(shop: Shop, provider: StripeProvider, remind: Remind) -> None:
    cup, customer = shop.product(), shop.customer()
    for hours in (25, 49):
        order = shop.order(customer, (cup, 1), card=CARD_NEEDS_AUTHENTICATION)
        run_saga(shop.database, provider, order, CONFIG)
        shop.backdate(order, hours)
    result = remind(OrderSettings(reminder_batch_limit=1))
    assert (result["done"], result["limit_reached"]) == (1, True)
