"""process_order: each outcome of an order, and overlapping runs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from backline.db.connect import session
from backline.errors import InvalidInput, UnknownFailure
from backline.jobs.results import RunRef
from backline.messages import registry
from backline.orders.process_order import STEP_PROGRESS, SagaOutcome, SagaResult, process_order, run_saga
from backline.orders.settings import OrderSettings
from backline.payments.refunds import refund
from backline.payments.stripe_client import StripeProvider
from tests.integration.job_factory import create_job, get_result
from tests.integration.orders.support import Shop
from tests.integration.payments.support import (
    CARD_INSUFFICIENT_FUNDS,
    CARD_NEEDS_AUTHENTICATION,
    CARD_STOLEN,
    PROVIDER_UNAVAILABLE,
    Account,
)

CONFIG = OrderSettings(order_url="https://shop.example/orders/{order}")


def process(shop: Shop, provider: StripeProvider, order: int) -> SagaResult:
    return run_saga(shop.database, provider, order, CONFIG)


def test_an_order_is_confirmed_and_the_customer_gets_its_lines(
    shop: Shop, provider: StripeProvider, account: Account
) -> None:
    cup, pot = shop.product(5), shop.product(1)
    order = shop.order(shop.customer(phone="+4915112345678", language="de"), (cup, 3), (pot, 1), price=333)
    steps: list[str] = []
    done = run_saga(shop.database, provider, order, CONFIG, steps.append)
    assert done == SagaResult("O-0001", "confirmed", SagaOutcome.CONFIRMED)
    assert steps == ["validate", "reserve", "pay", "confirm"]
    assert set(steps) <= set(STEP_PROGRESS)
    assert (shop.reserved(cup), shop.reserved(pot)) == (3, 1)
    email, text = shop.messages("order_confirmation")
    assert {email["channel"]: email["recipient"], text["channel"]: text["recipient"]} == {
        "email": "ann@example.com", "sms": "+4915112345678",
    }  # fmt: skip
    payload = email["payload"]
    assert (payload["name"], payload["order"], payload["language"]) == ("Ann", "O-0001", "de")
    assert payload["order_url"] == "https://shop.example/orders/O-0001"
    # Three at 333 and 19 % make 1189, which is no multiple of 3.
    assert [(line["description"], line["quantity"], line["unit_price"]) for line in payload["lines"]] == [
        (f"3 × Cup {cup}", 1, 1189), (f"Cup {pot}", 1, 396),  # noqa: RUF001
    ]  # fmt: skip
    shown = sum(line["quantity"] * line["unit_price"] for line in payload["lines"])
    assert shown + payload["shipping"] == payload["total"] == account.captured_minor()
    registry.get("order_confirmation").parse(payload)
    assert shop.invariant_violations() == {}


def test_a_second_run_has_nothing_to_do(shop: Shop, provider: StripeProvider, account: Account) -> None:
    order = shop.order(shop.customer(), (shop.product(), 1))
    process(shop, provider, order)
    account.set_faults(PROVIDER_UNAVAILABLE)  # it is not even asked
    assert process(shop, provider, order).outcome is SagaOutcome.NOTHING_TO_DO
    assert (len(shop.messages("payment_receipt")), len(shop.messages())) == (1, 1)


def test_an_order_that_is_out_of_stock_is_not_charged(shop: Shop, provider: StripeProvider, account: Account) -> None:
    cup, pot = shop.product(5), shop.product(1)
    order = shop.order(shop.customer(), (cup, 3), (pot, 2))
    assert process(shop, provider, order) == SagaResult(
        "O-0001", "cancelled", SagaOutcome.CANCELLED, "not in stock: CUP-2"
    )
    assert (shop.reserved(cup), shop.reserved(pot), account.intents()) == (0, 0, [])
    [message] = shop.messages()
    assert (message["type"], message["payload"]["status"]) == ("order_status", "cancelled")
    assert message["payload"]["note"] == "Reason: not in stock: CUP-2."
    assert shop.invariant_violations() == {}


def test_the_quantities_of_two_lines_of_one_product_add_up(shop: Shop, provider: StripeProvider) -> None:
    cup = shop.product(5)
    order = shop.order(shop.customer(), (cup, 3), (cup, 3))
    assert process(shop, provider, order).outcome is SagaOutcome.CANCELLED
    assert shop.reserved(cup) == 0


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        ("UPDATE app.products SET retired_at = now()", "no longer sold: CUP-1"),
        ("UPDATE app.users SET state = 'deactivated', deactivated_at = now()", "the customer's account is closed"),
    ],
)
def test_an_order_that_cannot_be_delivered_is_cancelled_before_stock_is_reserved(
    spoil: str, why: str, shop: Shop, provider: StripeProvider, account: Account
) -> None:
    order = shop.order(shop.customer(), (shop.product(), 1))
    shop.database.execute(spoil)
    done = process(shop, provider, order)
    assert (done.state, done.outcome) == ("cancelled", SagaOutcome.CANCELLED)
    assert done.reason.startswith(why)
    assert account.intents() == []
    assert shop.invariant_violations() == {}


def test_nothing_is_sent_to_a_closed_account(shop: Shop, provider: StripeProvider) -> None:
    order = shop.order(shop.customer(), (shop.product(), 1))
    shop.database.execute("UPDATE app.users SET state = 'deactivated', deactivated_at = now()")
    process(shop, provider, order)
    assert shop.messages() == []


def test_a_hard_decline_releases_the_stock(shop: Shop, provider: StripeProvider) -> None:
    cup = shop.product()
    order = shop.order(shop.customer(), (cup, 2), card=CARD_STOLEN)
    assert process(shop, provider, order) == SagaResult(
        "O-0001", "cancelled", SagaOutcome.CANCELLED, "the payment was declined"
    )
    assert shop.reserved(cup) == 0
    assert shop.invariant_violations() == {}


@pytest.mark.parametrize(
    ("card", "why"),
    [
        (CARD_INSUFFICIENT_FUNDS, "the payment was declined and will be attempted again"),
        (CARD_NEEDS_AUTHENTICATION, "the customer must confirm the payment"),
    ],
)
def test_stock_stays_reserved_while_the_order_may_be_paid(
    card: str, why: str, shop: Shop, provider: StripeProvider, account: Account
) -> None:
    cup = shop.product()
    order = shop.order(shop.customer(), (cup, 2), card=card)
    for _ in range(2):
        assert process(shop, provider, order) == SagaResult("O-0001", "reserved", SagaOutcome.WAITING, why)
    assert (shop.reserved(cup), len(account.intents()), shop.messages()) == (2, 1, [])
    assert shop.invariant_violations() == {}


def test_an_order_that_is_not_paid_in_time_is_cancelled_and_its_payment_is_closed(
    shop: Shop, provider: StripeProvider, account: Account
) -> None:
    cup = shop.product()
    order = shop.order(shop.customer(), (cup, 2), card=CARD_NEEDS_AUTHENTICATION)
    process(shop, provider, order)
    shop.backdate(order, 73)
    done = process(shop, provider, order)
    assert (done.outcome, done.reason) == (SagaOutcome.CANCELLED, "it was not paid in time")
    payment = shop.fetch_one("SELECT state::text, next_attempt_at FROM app.payments")
    assert payment == {"state": "abandoned", "next_attempt_at": None}
    assert [one["status"] for one in account.intents()] == ["canceled"]
    assert shop.reserved(cup) == 0
    assert shop.invariant_violations() == {}


def test_an_order_that_was_paid_just_in_time_is_confirmed(
    shop: Shop, provider: StripeProvider, account: Account
) -> None:
    order = shop.order(shop.customer(), (shop.product(), 2), card=CARD_NEEDS_AUTHENTICATION)
    process(shop, provider, order)
    shop.backdate(order, 73)
    account.confirm_open_intents()
    assert process(shop, provider, order).outcome is SagaOutcome.CONFIRMED
    assert shop.invariant_violations() == {}


def test_an_unavailable_provider_changes_nothing(shop: Shop, provider: StripeProvider, account: Account) -> None:
    cup = shop.product()
    order = shop.order(shop.customer(), (cup, 2))
    account.set_faults(PROVIDER_UNAVAILABLE)
    with pytest.raises(UnknownFailure):
        process(shop, provider, order)
    assert (shop.state(order), shop.reserved(cup)) == ("reserved", 2)
    account.set_faults()
    assert process(shop, provider, order).outcome is SagaOutcome.CONFIRMED
    assert shop.invariant_violations() == {}


def test_an_attempt_without_a_result_is_settled_before_an_order_is_cancelled(
    shop: Shop, provider: StripeProvider, account: Account
) -> None:
    order = shop.order(shop.customer(), (shop.product(), 2))
    account.set_faults(PROVIDER_UNAVAILABLE)
    with pytest.raises(UnknownFailure):
        process(shop, provider, order)
    shop.backdate(order, 73)
    account.set_faults()
    assert process(shop, provider, order).outcome is SagaOutcome.CONFIRMED
    assert account.captured_count() == 1
    assert shop.invariant_violations() == {}


def test_an_order_with_a_pending_refund_is_not_confirmed(
    shop: Shop, provider: StripeProvider, account: Account
) -> None:
    order = shop.order(shop.customer(), (shop.product(), 1))

    def refund_before_it_is_confirmed(step: str) -> None:
        if step == "confirm":
            refund(shop.database, provider, order, "asked by the customer")

    done = run_saga(shop.database, provider, order, CONFIG, refund_before_it_is_confirmed)
    assert (done.outcome, done.reason) == (SagaOutcome.REFUNDED, "its payment is being refunded")
    assert account.captured_minor() == 0
    assert shop.invariant_violations() == {}


def test_overlapping_runs_charge_and_confirm_once(
    shop: Shop, database: str, provider: StripeProvider, account: Account
) -> None:
    cup = shop.product(20)
    customer = shop.customer()
    orders = [shop.order(customer, (cup, 2)) for _ in range(10)]

    def run(order: int) -> str:
        with session(database, name="racer") as connection:
            return run_saga(connection, provider, order, CONFIG).state

    with ThreadPoolExecutor(8) as pool:
        states = set(pool.map(run, [order for order in orders for _ in range(3)]))
    assert states == {"confirmed"}
    assert (shop.reserved(cup), account.captured_count(), len(shop.messages())) == (20, 10, 10)
    assert shop.invariant_violations() == {}


def test_overlapping_orders_share_the_last_pieces(
    shop: Shop, database: str, provider: StripeProvider, account: Account
) -> None:
    cup, pot = shop.product(7), shop.product(7)
    customer = shop.customer()
    orders = [shop.order(customer, *((cup, 2), (pot, 2))[:: 1 if n % 2 else -1]) for n in range(8)]

    def run(order: int) -> str:
        with session(database, name="racer") as connection:
            return run_saga(connection, provider, order, CONFIG).state

    with ThreadPoolExecutor(8) as pool:
        states = list(pool.map(run, orders))
    assert (states.count("confirmed"), states.count("cancelled")) == (3, 5)
    assert (shop.reserved(cup), shop.reserved(pot), account.captured_count()) == (6, 6, 3)
    assert shop.invariant_violations() == {}


def test_the_lines_of_a_long_order_are_summed_up(shop: Shop, provider: StripeProvider) -> None:
    cup = shop.product(1000)
    order = shop.order(shop.customer(), *[(cup, 1)] * 130)
    assert process(shop, provider, order).outcome is SagaOutcome.CONFIRMED
    [message] = shop.messages()
    lines = message["payload"]["lines"]
    assert (len(lines), lines[-1]["description"]) == (100, "31 further items")
    assert sum(line["quantity"] * line["unit_price"] for line in lines) + 490 == message["payload"]["total"]


def test_an_unknown_order_is_an_error(shop: Shop, provider: StripeProvider) -> None:
    with pytest.raises(InvalidInput, match="order_id: there is no order 4711"):
        process(shop, provider, 4711)


def test_the_job_returns_the_outcome_and_stores_its_progress(
    database: str, shop: Shop, provider: StripeProvider
) -> None:
    order = shop.order(shop.customer(), (shop.product(), 1))
    job = create_job(database, CONFIG, params={"order_id": order}, provider=provider)
    assert job.execute(process_order) == {
        "order": "O-0001", "state": "confirmed", "outcome": "confirmed", "reason": "", "unsent_messages": 0,
    }  # fmt: skip
    stored = get_result(database, RunRef("test_job", "run-1"))
    assert stored is not None
    assert stored["doing"] in STEP_PROGRESS
