"""A process killed between the charge and the commit: nothing is charged twice, and the charge is found."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from backline.payments.charges import charge
from backline.payments.stripe_client import StripeProvider
from backline.settings import ROOT
from tests.integration.payments.support import Account, Shop

PROGRAM = Path(__file__).with_name("charge_worker.py")
CHARGED = ["charged 2380 eur"]


def wait_for(holds: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def start_charge(shop: Shop, account: Account, order: int) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'plugins'}:{ROOT}"}
    command = [sys.executable, str(PROGRAM), shop.database.info.dsn, account.url, str(order)]
    if shop.database.info.password:
        environment["PGPASSWORD"] = shop.database.info.password
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    out, _ = process.communicate(timeout=10)
    assert (process.returncode, out) == (-signal.SIGKILL, "")


def assert_paid_once(shop: Shop, account: Account, provider: StripeProvider, order: int) -> None:
    assert shop.state(order) == ("reserved", "pending")
    assert shop.attempt_outcomes(order) == [None]
    assert account.charges() == CHARGED
    assert charge(shop.database, provider, order).state == "paid"
    assert account.charges() == CHARGED
    assert len([one for one in account.intents() if one["status"] == "succeeded"]) == 1
    assert shop.state(order) == ("paid", "captured")
    assert shop.attempt_outcomes(order) == ["captured"]
    assert [kind for kind, _ in shop.messages()] == ["payment_receipt"]
    assert shop.invariant_violations() == set()


@pytest.mark.parametrize("keys", ["kept", "expired"])
def test_killed_before_the_answer(keys: str, shop: Shop, account: Account, provider: StripeProvider) -> None:
    """The provider has charged, but the process has no answer yet."""
    order = shop.order()
    account.set_faults({"recipient": "confirm", "action": "slow", "seconds": 60.0, "after": True, "times": 1})
    process = start_charge(shop, account, order)
    wait_for(account.charges, "the provider was never asked")
    kill(process)
    if keys == "expired":
        account.expire_idempotency_keys()
    assert_paid_once(shop, account, provider, order)


@pytest.mark.parametrize("keys", ["kept", "expired"])
def test_killed_between_the_answer_and_the_commit(
    keys: str, shop: Shop, account: Account, provider: StripeProvider, database: str
) -> None:
    """The process has the answer, but has not committed it."""
    order = shop.order()
    account.set_faults({"recipient": "confirm", "action": "slow", "seconds": 3.0, "after": True, "times": 1})
    process = start_charge(shop, account, order)
    wait_for(account.charges, "the provider was never asked")
    with psycopg.connect(database) as other:
        other.execute("SELECT 1 FROM app.orders WHERE id = %s FOR UPDATE", [order])
        blocked = (
            "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'backline doomed'"
            " AND wait_event_type = 'Lock'"
        )
        wait_for(lambda: shop.execute(blocked), "it never reached its commit")
        kill(process)
        other.rollback()
    gone = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'backline doomed'"
    wait_for(lambda: not shop.execute(gone), "its connection is still there")
    if keys == "expired":
        account.expire_idempotency_keys()
    assert_paid_once(shop, account, provider, order)
