"""The jobs about orders and matching, run as `airflow dags test` does, with a provider that is spoken to over HTTP."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from backline.db.connect import session
from backline.jobs.results import RunRef
from backline.orders.process_order import run_saga
from backline.orders.settings import OrderSettings
from backline.settings import ROOT
from tests.integration.airflow import run_dags
from tests.integration.channels.sandbox import Sandbox
from tests.integration.conftest import create, drop
from tests.integration.job_factory import get_result
from tests.integration.orders.support import Shop
from tests.integration.payments.support import API_KEY, CARD_NEEDS_AUTHENTICATION, CARD_VALID, Account

JOBS = ("process_order", "process_pending_orders", "send_order_reminders", "match_orders", "process_due_subscriptions")
NAME = "backline_order_jobs"
PURCHASE = """
WITH s AS (INSERT INTO app.suppliers (name, email, regions, quality, capacity)
    VALUES ('Potter', 'potter@example.com', '{DE}', 0.9, 100) RETURNING id),
o AS (INSERT INTO app.offers (supplier_id, product_id, unit_price_minor, currency, quantity, lead_days, valid)
    SELECT s.id, %(product)s, 400, 'EUR', 50, 3, tstzrange(now() - interval '1 day', NULL) FROM s)
INSERT INTO app.purchase_orders (product_id, quantity, region, currency, needed_by)
SELECT %(product)s, quantity, 'DE', 'EUR', current_date + 9 FROM unnest(ARRAY[20, 40]) AS quantity
"""


@pytest.fixture(scope="module")
def app_database(server: str, template: str) -> Iterator[str]:
    create(server, NAME, template)
    yield make_conninfo(server, dbname=NAME)
    drop(server, NAME)


@pytest.fixture(scope="module")
def account(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Account]:
    sandbox = Sandbox.start(Path(tmp_path_factory.mktemp("account")) / "mail")
    yield Account(sandbox)
    sandbox.stop()


@pytest.fixture(scope="module")
def ran(app_database: str, account: Account, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """All of them, one after the other in one process."""
    with session(app_database, name="test") as database:
        shop = Shop(database)
        cup, customer = shop.product(), shop.customer()
        asked, stopped, unpaid = (
            shop.order(customer, (cup, 1), card=card) for card in (CARD_VALID, CARD_VALID, CARD_NEEDS_AUTHENTICATION)
        )
        run_saga(database, account.provider(), unpaid, OrderSettings())
        shop.backdate(stopped, 1)
        shop.backdate(unpaid, 30)
        database.execute(PURCHASE, {"product": cup})
    home = tmp_path_factory.mktemp("airflow")
    folder = home / "dags"
    shutil.copytree(ROOT / "dags" / "commerce", folder)
    known = conninfo_to_dict(app_database)
    connection = {
        "conn_type": "postgres", "host": known["host"], "login": known["user"], "password": known.get("password"),
        "schema": known["dbname"], "port": int(known.get("port") or 5432),
    }  # fmt: skip
    variables = {
        "AIRFLOW_CONN_BACKLINE_DB": json.dumps(connection),
        "AIRFLOW_CONN_STRIPE_API": json.dumps({"conn_type": "http", "host": account.url, "password": API_KEY}),
    }
    return run(home, folder, {name: {"order_id": asked} if name == "process_order" else {} for name in JOBS}, variables)


def run(home: Path, folder: Path, wanted: dict[str, Any], variables: dict[str, str]) -> dict[str, Any]:
    done = subprocess.run(
        run_dags.command(folder, wanted), check=False, env=run_dags.environment(home, folder, variables),
        capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    return run_dags.parse_results(done.stdout, done.stderr)


def returned(ran: dict[str, Any], job: str, task: str) -> dict[str, Any]:
    assert ran[job]["state"] == "success"
    found: dict[str, Any] = ran[job]["tasks"][task]["returned"]
    return found


def test_process_order(ran: dict[str, Any], app_database: str) -> None:
    answer = returned(ran, "process_order", "process_order")
    assert answer == {
        "order": "O-0001", "state": "confirmed", "outcome": "confirmed", "reason": "", "unsent_messages": 0,
    }  # fmt: skip
    kept = get_result(app_database, RunRef("process_order", ran["process_order"]["run_id"]))
    assert kept is not None
    assert (kept["percent"], kept["result"]) == (100, answer)


def test_process_pending_orders(ran: dict[str, Any]) -> None:
    result = returned(ran, "process_pending_orders", "process_pending_orders")
    assert (result["orders"]["outcomes"], result["stuck"]) == ({"confirmed": 1}, {})


def test_send_order_reminders(ran: dict[str, Any]) -> None:
    assert returned(ran, "send_order_reminders", "send_order_reminders")["outcomes"] == {"payment_missing": 1}


def test_match_orders(ran: dict[str, Any]) -> None:
    result = returned(ran, "match_orders", "match_orders")
    assert (result["orders"], result["allocated"], result["unmatched"]) == (2, 1, 1)
    assert result["unmatched_reasons"][0]["taken_by_others"] == 1


def test_a_night_with_nothing_due_has_a_result(ran: dict[str, Any], app_database: str) -> None:
    run = ran["process_due_subscriptions"]
    kept = get_result(app_database, RunRef("process_due_subscriptions", run["run_id"]))
    assert kept is not None
    assert (run["state"], kept["result"]) == ("success", {"chunks": 0})


def test_the_rows_and_messages_are_there_and_agree(ran: dict[str, Any], app_database: str, account: Account) -> None:
    assert len(ran) == len(JOBS)
    with session(app_database, name="test") as database:
        shop = Shop(database)
        assert [shop.state(order) for order in (1, 2, 3)] == ["confirmed", "confirmed", "reserved"]
        assert sorted(message["type"] for message in shop.messages()) == [
            "order_confirmation", "order_confirmation", "order_reminder",
        ]  # fmt: skip
        assert shop.invariant_violations() == {}
    assert account.captured_minor() == 2 * 1680
