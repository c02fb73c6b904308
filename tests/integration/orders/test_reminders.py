"""send_order_reminders: once an order and stage, however often and by how many it is run."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import date

import pytest

from backline.db.session import session
from backline.messages import registry
from backline.orders.reminders import send_reminders
from backline.orders.saga import process_order
from backline.orders.settings import OrderSettings
from backline.payments.stripe_client import StripeProvider
from tests.integration.orders.shop import Shop
from tests.integration.payments.shop import AUTHENTICATE, Account

CONFIG = OrderSettings()


@pytest.fixture
def unpaid(shop: Shop, provider: StripeProvider) -> int:
    order = shop.order(shop.customer(language="de"), (shop.product(), 2), card=AUTHENTICATE)
    process_order(shop.database, provider, order, CONFIG)
    return order


def reminded(shop: Shop, config: OrderSettings = CONFIG) -> dict[str, int]:
    return {stage: count for stage, count in send_reminders(shop.database, config).reminded.items() if count}


def test_an_order_has_each_reminder_once(shop: Shop, unpaid: int) -> None:
    assert reminded(shop) == {}
    shop.age(unpaid, 25)
    assert reminded(shop) == {"payment_missing": 1}
    assert reminded(shop) == {}
    shop.age(unpaid, 24)
    assert reminded(shop) == {"payment_missing_again": 1}
    shop.age(unpaid, 24)
    assert reminded(shop) == {}
    payloads = [message["payload"] for message in shop.messages("order_reminder")]
    assert [payload["stage"] for payload in payloads] == ["payment_due", "payment_due"]
    assert (payloads[0]["order"], payloads[0]["amount"], payloads[0]["currency"]) == ("O-0001", 2870, "EUR")
    # 72 hours after its stock was set aside; since the first reminder that has become 48 hours longer ago.
    query = "SELECT ((reserved_at + interval '120 hours') AT TIME ZONE 'Europe/Berlin')::date AS day FROM app.orders"
    assert date.fromisoformat(payloads[0]["due_on"]) == shop.one(query)["day"]


def test_a_first_reminder_whose_time_is_over_is_left_out(shop: Shop, unpaid: int) -> None:
    shop.age(unpaid, 49)
    assert reminded(shop) == {"payment_missing_again": 1}


def test_who_has_paid_is_not_reminded(shop: Shop, provider: StripeProvider, account: Account, unpaid: int) -> None:
    account.pay_as_the_customer()
    process_order(shop.database, provider, unpaid, CONFIG)
    shop.age(unpaid, 25)
    assert reminded(shop) == {}


def test_a_closed_account_is_not_reminded(shop: Shop, unpaid: int) -> None:
    shop.age(unpaid, 25)
    shop.database.execute("UPDATE app.users SET state = 'deactivated', deactivated_at = now()")
    assert reminded(shop) == {}


@pytest.mark.parametrize(("days", "expected"), [(6, {}), (8, {"review": 1}), (29, {"review": 1}), (31, {})])
def test_a_review_is_asked_for_within_its_time(
    days: int, expected: dict[str, int], shop: Shop, provider: StripeProvider
) -> None:
    order = shop.order(shop.customer(), (shop.product(), 2))
    process_order(shop.database, provider, order, CONFIG)
    shop.deliver(order)
    shop.age(order, days * 24)
    assert reminded(shop) == expected
    for message in shop.messages("order_reminder"):
        content = registry.get("order_reminder").parse(message["payload"]).email()  # type: ignore[attr-defined]
        assert content.subject == "How do you like your order? (O-0001)"
        assert "http://localhost:8080/orders/O-0001" in content.text


def test_an_address_that_cannot_be_written_to_is_told_of_and_harms_no_other(
    shop: Shop, provider: StripeProvider
) -> None:
    cup = shop.product()
    orders = [shop.order(shop.customer(f"c{n}@example.com"), (cup, 1), card=AUTHENTICATE) for n in range(3)]
    for order in orders:
        process_order(shop.database, provider, order, CONFIG)
        shop.age(order, 25)
    shop.database.execute("UPDATE app.users SET email = 'a;b@example.com' WHERE email = 'c1@example.com'")
    report = send_reminders(shop.database, CONFIG)
    assert report.reminded["payment_missing"] == 2
    assert [(each["stage"], each["order"]) for each in report.refused] == [("payment_missing", "O-0002")]
    assert shop.one("SELECT count(*) AS noted FROM app.order_reminders")["noted"] == 2


def test_several_at_once_remind_once(shop: Shop, database: str, provider: StripeProvider) -> None:
    cup, customer = shop.product(40), shop.customer()
    for _ in range(20):
        order = shop.order(customer, (cup, 1), card=AUTHENTICATE)
        process_order(shop.database, provider, order, CONFIG)
        shop.age(order, 25)

    def run(_: int) -> int:
        with session(database, name="racer") as connection:
            return send_reminders(connection, CONFIG).reminded["payment_missing"]

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(run, range(4))) == 20
    assert len(shop.messages("order_reminder")) == 20


def test_it_is_bounded(shop: Shop, provider: StripeProvider) -> None:
    cup, customer = shop.product(), shop.customer()
    for _ in range(3):
        order = shop.order(customer, (cup, 1), card=AUTHENTICATE)
        process_order(shop.database, provider, order, CONFIG)
        shop.age(order, 25)
    report = send_reminders(shop.database, OrderSettings(at_most=2))
    assert (report.reminded["payment_missing"], report.more) == (2, True)
    assert reminded(shop) == {"payment_missing": 1}
