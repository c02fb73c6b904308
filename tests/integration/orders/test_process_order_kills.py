"""process_order killed between any two steps and run again: money, stock and orders agree, and each step happened once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from backline.orders.process_order import SagaOutcome, SagaResult, run_saga
from backline.orders.settings import OrderSettings
from backline.payments.stripe_client import StripeProvider
from backline.settings import ROOT
from tests.integration.orders import process_order_worker
from tests.integration.orders.support import Shop
from tests.integration.payments.support import CARD_STOLEN, Account

FORWARD = ("validate", "reserve", "pay", process_order_worker.PROVIDER_ANSWERED, "confirm", process_order_worker.END)


def kill_at(point: str, database: str, account: Account, order: int) -> None:
    done = subprocess.run(
        [sys.executable, process_order_worker.__file__, database, account.url, str(order), point],
        check=False, env={**os.environ, "PYTHONPATH": f"{ROOT / 'plugins'}:{ROOT}"}, timeout=60,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, f"it ended before it reached {point!r}"


def process_again(shop: Shop, provider: StripeProvider, order: int) -> SagaResult:
    return run_saga(shop.database, provider, order, OrderSettings())


def captured_payments(shop: Shop, order: int) -> int:
    query = "SELECT coalesce(sum(amount_minor - refunded_minor), 0) AS minor FROM app.payments WHERE order_id = %s AND state = 'captured'"
    return int(shop.fetch_one(query, order)["minor"])


@pytest.mark.parametrize("point", FORWARD)
def test_killed_before_the_order_is_confirmed(
    point: str, shop: Shop, database: str, provider: StripeProvider, account: Account
) -> None:
    cup = shop.product()
    order = shop.order(shop.customer(), (cup, 3))
    kill_at(point, database, account, order)
    assert process_again(shop, provider, order).state == "confirmed"
    assert process_again(shop, provider, order).outcome is SagaOutcome.NOTHING_TO_DO
    assert shop.invariant_violations() == {}
    assert (shop.reserved(cup), captured_payments(shop, order), account.captured_minor()) == (3, 4060, 4060)
    assert account.captured_count() == 1
    assert [message["type"] for message in shop.messages()] == ["order_confirmation"]


@pytest.mark.parametrize("point", ["pay", "refund", "cancel", process_order_worker.END])
def test_killed_while_an_unpaid_order_is_compensated(
    point: str, shop: Shop, database: str, provider: StripeProvider, account: Account
) -> None:
    cup = shop.product()
    order = shop.order(shop.customer(), (cup, 3), card=CARD_STOLEN)
    kill_at(point, database, account, order)
    assert process_again(shop, provider, order).state == "cancelled"
    assert process_again(shop, provider, order).outcome is SagaOutcome.NOTHING_TO_DO
    assert shop.invariant_violations() == {}
    assert (shop.reserved(cup), captured_payments(shop, order), account.captured_minor()) == (0, 0, 0)
    assert [message["payload"]["status"] for message in shop.messages()] == ["cancelled"]


@pytest.mark.parametrize(
    "point", ["confirm", "refund", process_order_worker.PROVIDER_ANSWERED, "cancel", process_order_worker.END]
)
def test_killed_while_a_paid_order_is_compensated(
    point: str, shop: Shop, database: str, provider: StripeProvider, account: Account
) -> None:
    cup = shop.product()
    order = shop.order(shop.customer(), (cup, 3))

    def stop(step: str) -> None:
        if step == "confirm":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_saga(shop.database, provider, order, OrderSettings(), stop)
    assert (shop.state(order), account.captured_minor()) == ("paid", 4060)
    shop.database.execute("UPDATE app.products SET retired_at = now()")
    kill_at(point, database, account, order)
    assert process_again(shop, provider, order).state == "refunded"
    assert process_again(shop, provider, order).outcome is SagaOutcome.NOTHING_TO_DO
    assert shop.invariant_violations() == {}
    assert (shop.reserved(cup), captured_payments(shop, order), account.captured_minor()) == (0, 0, 0)
    assert (account.captured_count(), account.refunded_count()) == (1, 1)
    assert [message["payload"]["status"] for message in shop.messages()] == ["refunded"]


def test_every_step_has_a_kill_test() -> None:
    from backline.orders.process_order import STEP_PROGRESS

    assert set(STEP_PROGRESS) <= {*FORWARD, "cancel", "refund"}
