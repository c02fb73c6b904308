from __future__ import annotations

from datetime import timedelta

import pytest

from backline.errors import RetryableError, UnknownFailure
from backline.payments.charges import charge, retry_charge
from backline.payments.dunning import plan_retries, record_approval, retry_due, settle_orphaned_attempts
from backline.payments.settings import PaymentSettings
from backline.payments.stripe_client import StripeProvider
from tests.integration.payments.support import (
    CARD_INSUFFICIENT_FUNDS,
    CARD_NEEDS_AUTHENTICATION,
    CARD_STOLEN,
    CARD_VALID,
    Account,
    Shop,
)

CONFIG = PaymentSettings()


def make_due(shop: Shop) -> None:
    """As if the time of all next tries had come."""
    shop.execute(
        "UPDATE app.payments SET created_at = created_at - interval '30 days', failed_at = failed_at - interval '20 days',"
        " next_attempt_at = clock_timestamp() - interval '1 second' WHERE next_attempt_at IS NOT NULL"
    )


def due_attempts(shop: Shop, config: PaymentSettings = CONFIG) -> list[tuple[int, int]]:
    return [(due.order_id, due.number) for due in plan_retries(shop.database, "stripe", config).due]


def test_the_schedule_is_kept_to_its_end(shop: Shop, account: Account, provider: StripeProvider) -> None:
    order = shop.order(CARD_INSUFFICIENT_FUNDS)
    charge(shop.database, provider, order)
    pauses = []
    for number in range(2, len(CONFIG.dunning_hours) + 2):
        payment = shop.payment(order)
        pauses.append(payment["next_attempt_at"] - payment["failed_at"])
        assert due_attempts(shop) == []
        make_due(shop)
        assert due_attempts(shop) == [(order, number)]
        assert retry_due(shop.database, provider, [(order, number)]).as_dict() == {"declined": 1, "problems": []}
    assert pauses == [timedelta(hours=hours) for hours in CONFIG.dunning_hours]
    assert shop.state(order) == ("reserved", "abandoned")
    assert len(shop.attempt_outcomes(order)) == len(CONFIG.dunning_hours) + 1
    assert due_attempts(shop) == []
    told = shop.messages()
    assert [kind for kind, _ in told] == ["payment_failed"] * 5
    assert ["retry_on" in payload for _, payload in told] == [True] * 4 + [False]
    assert account.charges() == []
    assert shop.invariant_violations() == set()


def test_a_card_that_has_money_again_pays(shop: Shop, account: Account, provider: StripeProvider) -> None:
    order = shop.order(CARD_INSUFFICIENT_FUNDS)
    charge(shop.database, provider, order)
    make_due(shop)
    shop.change_method(order, CARD_VALID)
    assert retry_due(shop.database, provider, due_attempts(shop)).as_dict() == {"paid": 1, "problems": []}
    assert shop.state(order) == ("paid", "captured")
    assert len(account.intents()) == 1
    assert account.charges() == ["charged 2380 eur"]
    assert shop.invariant_violations() == set()


@pytest.mark.parametrize("method", [CARD_STOLEN, CARD_NEEDS_AUTHENTICATION])
def test_what_is_not_soft_is_never_due(method: str, shop: Shop, provider: StripeProvider) -> None:
    charge(shop.database, provider, shop.order(method))
    make_due(shop)
    assert due_attempts(shop) == []


def test_a_try_is_made_once_however_often_it_is_asked_for(shop: Shop, provider: StripeProvider) -> None:
    order = shop.order(CARD_INSUFFICIENT_FUNDS)
    charge(shop.database, provider, order)
    assert retry_charge(shop.database, provider, order, 1) is None
    assert retry_charge(shop.database, provider, order, 3) is None
    make_due(shop)
    for _ in range(3):
        retry_due(shop.database, provider, [(order, 2)])
    assert len(shop.attempt_outcomes(order)) == 2


def test_one_that_goes_wrong_harms_only_itself(shop: Shop, account: Account, provider: StripeProvider) -> None:
    orders = [shop.order(CARD_INSUFFICIENT_FUNDS) for _ in range(3)]
    for order in orders:
        charge(shop.database, provider, order)
        shop.change_method(order, CARD_VALID)
    make_due(shop)
    account.set_faults({"recipient": "confirm", "status": 500, "body": {"error": {"type": "api_error"}}, "times": 1})
    with pytest.raises(UnknownFailure, match="1 payments could not be tried again"):
        retry_due(shop.database, provider, due_attempts(shop))
    assert sorted(shop.state(order)[0] for order in orders) == ["paid", "paid", "reserved"]
    report = retry_due(shop.database, provider, [(order, 2) for order in orders])
    assert report.as_dict() == {"paid": 1, "nothing to do": 2, "problems": []}
    assert len(account.charges()) == 3


def test_a_run_is_bounded(shop: Shop, provider: StripeProvider) -> None:
    for _ in range(3):
        charge(shop.database, provider, shop.order(CARD_INSUFFICIENT_FUNDS))
    make_due(shop)
    assert len(due_attempts(shop, PaymentSettings(batch_limit=2))) == 2


def declined_large_order(shop: Shop, provider: StripeProvider) -> tuple[int, int]:
    """The order and payment of a large amount whose second try is due."""
    order = shop.order(CARD_INSUFFICIENT_FUNDS, price=60_000)
    charge(shop.database, provider, order)
    shop.change_method(order, CARD_VALID)
    make_due(shop)
    return order, shop.payment(order)["id"]


def test_people_are_asked_about_a_large_one_once(shop: Shop, account: Account, provider: StripeProvider) -> None:
    order, payment = declined_large_order(shop, provider)
    first = plan_retries(shop.database, "stripe", CONFIG)
    assert (first.due, [(one.payment_id, one.number) for one in first.to_approve]) == ([], [(payment, 2)])
    second = plan_retries(shop.database, "stripe", CONFIG)
    assert (second.due, second.to_approve, second.awaiting_approval) == ([], [], 1)
    assert account.charges() == []
    record_approval(shop.database, payment, 2, approved=True, decided_by="ann")
    assert due_attempts(shop) == [(order, 2)]  # also if the run that asked has died
    retry_due(shop.database, provider, [(order, 2)])
    assert shop.state(order) == ("paid", "captured")


def test_what_people_reject_is_given_up(shop: Shop, account: Account, provider: StripeProvider) -> None:
    order, payment = declined_large_order(shop, provider)
    plan_retries(shop.database, "stripe", CONFIG)
    record_approval(shop.database, payment, 2, approved=False, decided_by="ann")
    record_approval(shop.database, payment, 2, approved=True, decided_by="bob")  # too late: the first one holds
    assert shop.state(order) == ("reserved", "abandoned")
    assert plan_retries(shop.database, "stripe", CONFIG).to_approve == []
    assert retry_due(shop.database, provider, [(order, 2)]).as_dict() == {"nothing to do": 1, "problems": []}
    assert account.charges() == []
    assert shop.fetch_one("SELECT approved, decided_by FROM backline.payment_approval") == {
        "approved": False,
        "decided_by": "ann",
    }


def test_what_nobody_answered_is_asked_again(shop: Shop, provider: StripeProvider) -> None:
    _, payment = declined_large_order(shop, provider)
    plan_retries(shop.database, "stripe", CONFIG)
    shop.execute(
        "UPDATE backline.payment_approval SET requested_at = requested_at - interval '2 days', expires_at = expires_at - interval '2 days'"
    )
    again = plan_retries(shop.database, "stripe", CONFIG)
    assert [one.payment_id for one in again.to_approve] == [payment]


def test_limits_are_by_currency() -> None:
    config = PaymentSettings(approval_above={"*": 100, "JPY": 5000})
    assert [config.needs_approval(amount, currency) for amount, currency in ((100, "EUR"), (101, "EUR"), (5000, "JPY"), (5001, "JPY"))] == [
        False, True, False, True,
    ]  # fmt: skip
    assert not PaymentSettings(approval_above={"EUR": 1}).needs_approval(10**9, "USD")


def test_what_a_dead_process_left_is_settled(shop: Shop, account: Account, provider: StripeProvider) -> None:
    order = shop.order()
    account.set_faults({"recipient": "confirm", "action": "drop", "after": True, "times": 1})
    with pytest.raises(RetryableError):
        charge(shop.database, provider, order)
    assert settle_orphaned_attempts(shop.database, provider, 10).as_dict() == {"problems": []}  # its maker may live
    shop.execute("UPDATE app.payment_attempts SET started_at = started_at - interval '1 hour'")
    assert settle_orphaned_attempts(shop.database, provider, 10).as_dict() == {"paid": 1, "problems": []}
    assert shop.state(order) == ("paid", "captured")
    assert account.charges() == ["charged 2380 eur"]
