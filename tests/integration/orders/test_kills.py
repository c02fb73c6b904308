"""Killed between any two steps and run again: money, stock and orders agree, and everything has happened once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from backline.orders.saga import Ended, Processed, process_order
from backline.orders.settings import OrderSettings
from backline.payments.stripe_client import StripeProvider
from backline.settings import ROOT
from tests.integration.orders import killed
from tests.integration.orders.shop import Shop
from tests.integration.payments.shop import STOLEN, Account

FORWARD = ("validate", "reserve", "pay", killed.CHARGED, "confirm", killed.END)


def kill_at(point: str, database: str, account: Account, order: int) -> None:
    done = subprocess.run(
        [sys.executable, killed.__file__, database, account.url, str(order), point],
        check=False, env={**os.environ, "PYTHONPATH": f"{ROOT / 'plugins'}:{ROOT}"}, timeout=60,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, f"it has ended without coming to {point!r}"


def again(shop: Shop, provider: StripeProvider, order: int) -> Processed:
    return process_order(shop.database, provider, order, OrderSettings())


def captured(shop: Shop, order: int) -> int:
    query = "SELECT coalesce(sum(amount_minor - refunded_minor), 0) AS minor FROM app.payments WHERE order_id = %s AND state = 'captured'"
    return int(shop.one(query, order)["minor"])


@pytest.mark.parametrize("point", FORWARD)
def test_on_the_way_to_confirmed(
    point: str, shop: Shop, database: str, provider: StripeProvider, account: Account
) -> None:
    cup = shop.product()
    order = shop.order(shop.customer(), (cup, 3))
    kill_at(point, database, account, order)
    assert again(shop, provider, order).state == "confirmed"
    assert again(shop, provider, order).ended is Ended.NOTHING
    assert shop.disagreements() == {}
    assert (shop.reserved(cup), captured(shop, order), account.money()) == (3, 4060, 4060)
    assert account.paid() == 1
    assert [message["type"] for message in shop.messages()] == ["order_confirmation"]


@pytest.mark.parametrize("point", ["pay", "refund", "cancel", killed.END])
def test_on_the_way_back_before_any_money(
    point: str, shop: Shop, database: str, provider: StripeProvider, account: Account
) -> None:
    cup = shop.product()
    order = shop.order(shop.customer(), (cup, 3), card=STOLEN)
    kill_at(point, database, account, order)
    assert again(shop, provider, order).state == "cancelled"
    assert again(shop, provider, order).ended is Ended.NOTHING
    assert shop.disagreements() == {}
    assert (shop.reserved(cup), captured(shop, order), account.money()) == (0, 0, 0)
    assert [message["payload"]["status"] for message in shop.messages()] == ["cancelled"]


@pytest.mark.parametrize("point", ["confirm", "refund", killed.CHARGED, "cancel", killed.END])
def test_on_the_way_back_with_the_money(
    point: str, shop: Shop, database: str, provider: StripeProvider, account: Account
) -> None:
    cup = shop.product()
    order = shop.order(shop.customer(), (cup, 3))

    def retire(doing: str) -> None:
        if doing == "confirm":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        process_order(shop.database, provider, order, OrderSettings(), retire)
    assert (shop.state(order), account.money()) == ("paid", 4060)
    shop.database.execute("UPDATE app.products SET retired_at = now()")
    kill_at(point, database, account, order)
    assert again(shop, provider, order).state == "refunded"
    assert again(shop, provider, order).ended is Ended.NOTHING
    assert shop.disagreements() == {}
    assert (shop.reserved(cup), captured(shop, order), account.money()) == (0, 0, 0)
    assert (account.paid(), account.refunds()) == (1, 1)
    assert [message["payload"]["status"] for message in shop.messages()] == ["refunded"]


def test_every_point_of_the_saga_is_killed_at() -> None:
    from backline.orders.saga import PROGRESS

    assert set(PROGRESS) <= {*FORWARD, "cancel", "refund"}
