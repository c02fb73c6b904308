from __future__ import annotations

from datetime import timedelta

import pytest

from backline.errors import RetryableError, UnknownFailure
from backline.payments.charging import charge, retry
from backline.payments.retrying import answer, plan, recover, retry_all
from backline.payments.settings import PaymentSettings
from backline.payments.stripe_client import StripeProvider
from tests.integration.payments.shop import AUTHENTICATE, GOOD, POOR, STOLEN, Account, Shop

CONFIG = PaymentSettings()


def due_now(shop: Shop) -> None:
    """As if the time of all next tries had come."""
    shop.sql(
        "UPDATE app.payments SET created_at = created_at - interval '30 days', failed_at = failed_at - interval '20 days',"
        " next_try_at = clock_timestamp() - interval '1 second' WHERE next_try_at IS NOT NULL"
    )


def tries_due(shop: Shop, config: PaymentSettings = CONFIG) -> list[tuple[int, int]]:
    return [(due.order_id, due.number) for due in plan(shop.database, "stripe", config).due]


def test_the_schedule_is_kept_to_its_end(shop: Shop, account: Account, provider: StripeProvider) -> None:
    order = shop.order(POOR)
    charge(shop.database, provider, order)
    pauses = []
    for number in range(2, len(CONFIG.dunning_hours) + 2):
        payment = shop.payment(order)
        pauses.append(payment["next_try_at"] - payment["failed_at"])
        assert tries_due(shop) == []
        due_now(shop)
        assert tries_due(shop) == [(order, number)]
        assert retry_all(shop.database, provider, [(order, number)]).as_dict() == {"declined": 1, "problems": []}
    assert pauses == [timedelta(hours=hours) for hours in CONFIG.dunning_hours]
    assert shop.state(order) == ("reserved", "abandoned")
    assert len(shop.tries(order)) == len(CONFIG.dunning_hours) + 1
    assert tries_due(shop) == []
    told = shop.messages()
    assert [kind for kind, _ in told] == ["payment_failed"] * 5
    assert ["retry_on" in payload for _, payload in told] == [True] * 4 + [False]
    assert account.charges() == []
    assert shop.broken_rules() == set()


def test_a_card_that_has_money_again_pays(shop: Shop, account: Account, provider: StripeProvider) -> None:
    order = shop.order(POOR)
    charge(shop.database, provider, order)
    due_now(shop)
    shop.change_method(order, GOOD)
    assert retry_all(shop.database, provider, tries_due(shop)).as_dict() == {"paid": 1, "problems": []}
    assert shop.state(order) == ("paid", "captured")
    assert len(account.intents()) == 1
    assert account.charges() == ["charged 2380 eur"]
    assert shop.broken_rules() == set()


@pytest.mark.parametrize("method", [STOLEN, AUTHENTICATE])
def test_what_is_not_soft_is_never_due(method: str, shop: Shop, provider: StripeProvider) -> None:
    charge(shop.database, provider, shop.order(method))
    due_now(shop)
    assert tries_due(shop) == []


def test_a_try_is_made_once_however_often_it_is_asked_for(shop: Shop, provider: StripeProvider) -> None:
    order = shop.order(POOR)
    charge(shop.database, provider, order)
    assert retry(shop.database, provider, order, 1) is None
    assert retry(shop.database, provider, order, 3) is None
    due_now(shop)
    for _ in range(3):
        retry_all(shop.database, provider, [(order, 2)])
    assert len(shop.tries(order)) == 2


def test_one_that_goes_wrong_harms_only_itself(shop: Shop, account: Account, provider: StripeProvider) -> None:
    orders = [shop.order(POOR) for _ in range(3)]
    for order in orders:
        charge(shop.database, provider, order)
        shop.change_method(order, GOOD)
    due_now(shop)
    account.faults({"recipient": "confirm", "status": 500, "body": {"error": {"type": "api_error"}}, "times": 1})
    with pytest.raises(UnknownFailure, match="1 payments could not be tried again"):
        retry_all(shop.database, provider, tries_due(shop))
    assert sorted(shop.state(order)[0] for order in orders) == ["paid", "paid", "reserved"]
    report = retry_all(shop.database, provider, [(order, 2) for order in orders])
    assert report.as_dict() == {"paid": 1, "nothing to do": 2, "problems": []}
    assert len(account.charges()) == 3


def test_a_run_is_bounded(shop: Shop, provider: StripeProvider) -> None:
    for _ in range(3):
        charge(shop.database, provider, shop.order(POOR))
    due_now(shop)
    assert len(tries_due(shop, PaymentSettings(retries_at_once=2))) == 2


def large(shop: Shop, provider: StripeProvider) -> tuple[int, int]:
    """The order and payment of a large amount whose second try is due."""
    order = shop.order(POOR, price=60_000)
    charge(shop.database, provider, order)
    shop.change_method(order, GOOD)
    due_now(shop)
    return order, shop.payment(order)["id"]


def test_people_are_asked_about_a_large_one_once(shop: Shop, account: Account, provider: StripeProvider) -> None:
    order, payment = large(shop, provider)
    first = plan(shop.database, "stripe", CONFIG)
    assert (first.due, [(one.payment_id, one.number) for one in first.to_ask]) == ([], [(payment, 2)])
    second = plan(shop.database, "stripe", CONFIG)
    assert (second.due, second.to_ask, second.asked) == ([], [], 1)
    assert account.charges() == []
    answer(shop.database, payment, 2, approved=True, who="ann")
    assert tries_due(shop) == [(order, 2)]  # also if the run that asked has died
    retry_all(shop.database, provider, [(order, 2)])
    assert shop.state(order) == ("paid", "captured")


def test_what_people_reject_is_given_up(shop: Shop, account: Account, provider: StripeProvider) -> None:
    order, payment = large(shop, provider)
    plan(shop.database, "stripe", CONFIG)
    answer(shop.database, payment, 2, approved=False, who="ann")
    answer(shop.database, payment, 2, approved=True, who="bob")  # too late: the first one holds
    assert shop.state(order) == ("reserved", "abandoned")
    assert plan(shop.database, "stripe", CONFIG).to_ask == []
    assert retry_all(shop.database, provider, [(order, 2)]).as_dict() == {"nothing to do": 1, "problems": []}
    assert account.charges() == []
    assert shop.one("SELECT approved, answered_by FROM backline.payment_approval") == {
        "approved": False,
        "answered_by": "ann",
    }


def test_what_nobody_answered_is_asked_again(shop: Shop, provider: StripeProvider) -> None:
    _, payment = large(shop, provider)
    plan(shop.database, "stripe", CONFIG)
    shop.sql(
        "UPDATE backline.payment_approval SET asked_at = asked_at - interval '2 days', lapses_at = lapses_at - interval '2 days'"
    )
    again = plan(shop.database, "stripe", CONFIG)
    assert [one.payment_id for one in again.to_ask] == [payment]


def test_limits_are_by_currency() -> None:
    config = PaymentSettings(approval_above={"*": 100, "JPY": 5000})
    assert [config.needs_approval(amount, currency) for amount, currency in ((100, "EUR"), (101, "EUR"), (5000, "JPY"), (5001, "JPY"))] == [
        False, True, False, True,
    ]  # fmt: skip
    assert not PaymentSettings(approval_above={"EUR": 1}).needs_approval(10**9, "USD")


def test_what_a_dead_process_left_is_settled(shop: Shop, account: Account, provider: StripeProvider) -> None:
    order = shop.order()
    account.faults({"recipient": "confirm", "action": "drop", "after": True, "times": 1})
    with pytest.raises(RetryableError):
        charge(shop.database, provider, order)
    assert recover(shop.database, provider, 10).as_dict() == {"problems": []}  # its maker may live
    shop.sql("UPDATE app.payment_tries SET started_at = started_at - interval '1 hour'")
    assert recover(shop.database, provider, 10).as_dict() == {"paid": 1, "problems": []}
    assert shop.state(order) == ("paid", "captured")
    assert account.charges() == ["charged 2380 eur"]
