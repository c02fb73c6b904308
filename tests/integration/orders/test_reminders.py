"""send_order_reminders: once an order and stage, however often and by how many it is run."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import date

import pytest

from backline.db.connect import session
from backline.messages import registry
from backline.orders.saga import run_saga
from backline.orders.send_order_reminders import send_reminders
from backline.orders.settings import OrderSettings
from backline.payments.stripe_client import StripeProvider
from tests.integration.orders.support import Shop
from tests.integration.payments.support import CARD_NEEDS_AUTHENTICATION, Account

CONFIG = OrderSettings()


@pytest.fixture
def unpaid_order(shop: Shop, provider: StripeProvider) -> int:
    order = shop.order(shop.customer(language="de"), (shop.product(), 2), card=CARD_NEEDS_AUTHENTICATION)
    run_saga(shop.database, provider, order, CONFIG)
    return order


def run_reminders(shop: Shop, config: OrderSettings = CONFIG) -> dict[str, int]:
    return {stage: count for stage, count in send_reminders(shop.database, config).reminded.items() if count}


def test_an_order_has_each_reminder_once(shop: Shop, unpaid_order: int) -> None:
    assert run_reminders(shop) == {}
    shop.backdate(unpaid_order, 25)
    assert run_reminders(shop) == {"payment_missing": 1}
    assert run_reminders(shop) == {}
    shop.backdate(unpaid_order, 24)
    assert run_reminders(shop) == {"payment_missing_again": 1}
    shop.backdate(unpaid_order, 24)
    assert run_reminders(shop) == {}
    payloads = [message["payload"] for message in shop.messages("order_reminder")]
    assert [payload["stage"] for payload in payloads] == ["payment_due", "payment_due"]
    assert (payloads[0]["order"], payloads[0]["amount"], payloads[0]["currency"]) == ("O-0001", 2870, "EUR")
    # 72 hours after its stock was set aside; since the first reminder that has become 48 hours longer ago.
    query = "SELECT ((reserved_at + interval '120 hours') AT TIME ZONE 'Europe/Berlin')::date AS day FROM app.orders"
    assert date.fromisoformat(payloads[0]["due_on"]) == shop.fetch_one(query)["day"]


def test_a_first_reminder_whose_time_is_over_is_left_out(shop: Shop, unpaid_order: int) -> None:
    shop.backdate(unpaid_order, 49)
    assert run_reminders(shop) == {"payment_missing_again": 1}


def test_who_has_paid_is_not_reminded(
    shop: Shop, provider: StripeProvider, account: Account, unpaid_order: int
) -> None:
    account.confirm_open_intents()
    run_saga(shop.database, provider, unpaid_order, CONFIG)
    shop.backdate(unpaid_order, 25)
    assert run_reminders(shop) == {}


def test_a_closed_account_is_not_reminded(shop: Shop, unpaid_order: int) -> None:
    shop.backdate(unpaid_order, 25)
    shop.database.execute("UPDATE app.users SET state = 'deactivated', deactivated_at = now()")
    assert run_reminders(shop) == {}


@pytest.mark.parametrize(("days", "expected"), [(6, {}), (8, {"review": 1}), (29, {"review": 1}), (31, {})])
def test_a_review_is_asked_for_within_its_time(
    days: int, expected: dict[str, int], shop: Shop, provider: StripeProvider
) -> None:
    order = shop.order(shop.customer(), (shop.product(), 2))
    run_saga(shop.database, provider, order, CONFIG)
    shop.deliver(order)
    shop.backdate(order, days * 24)
    assert run_reminders(shop) == expected
    for message in shop.messages("order_reminder"):
        content = registry.get("order_reminder").parse(message["payload"]).email()  # type: ignore[attr-defined]
        assert content.subject == "How do you like your order? (O-0001)"
        assert "http://localhost:8080/orders/O-0001" in content.text


def test_an_address_that_cannot_be_written_to_is_told_of_and_harms_no_other(
    shop: Shop, provider: StripeProvider
) -> None:
    cup = shop.product()
    orders = [
        shop.order(shop.customer(f"c{n}@example.com"), (cup, 1), card=CARD_NEEDS_AUTHENTICATION) for n in range(3)
    ]
    for order in orders:
        run_saga(shop.database, provider, order, CONFIG)
        shop.backdate(order, 25)
    shop.database.execute("UPDATE app.users SET email = 'a;b@example.com' WHERE email = 'c1@example.com'")
    report = send_reminders(shop.database, CONFIG)
    assert report.reminded["payment_missing"] == 2
    assert [(each["stage"], each["order"]) for each in report.rejected] == [("payment_missing", "O-0002")]
    assert shop.fetch_one("SELECT count(*) AS noted FROM app.order_reminders")["noted"] == 2


def test_several_at_once_remind_once(shop: Shop, database: str, provider: StripeProvider) -> None:
    cup, customer = shop.product(40), shop.customer()
    for _ in range(20):
        order = shop.order(customer, (cup, 1), card=CARD_NEEDS_AUTHENTICATION)
        run_saga(shop.database, provider, order, CONFIG)
        shop.backdate(order, 25)

    def run(_: int) -> int:
        with session(database, name="racer") as connection:
            return send_reminders(connection, CONFIG).reminded["payment_missing"]

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(run, range(4))) == 20
    assert len(shop.messages("order_reminder")) == 20


def test_it_is_bounded(shop: Shop, provider: StripeProvider) -> None:
    cup, customer = shop.product(), shop.customer()
    for _ in range(3):
        order = shop.order(customer, (cup, 1), card=CARD_NEEDS_AUTHENTICATION)
        run_saga(shop.database, provider, order, CONFIG)
        shop.backdate(order, 25)
    report = send_reminders(shop.database, OrderSettings(batch_limit=2))
    assert (report.reminded["payment_missing"], report.has_more) == (2, True)
    assert run_reminders(shop) == {"payment_missing": 1}
