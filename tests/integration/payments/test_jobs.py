"""The jobs about payments, run as `airflow dags test` runs them."""

from __future__ import annotations

import json
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

from psycopg.conninfo import conninfo_to_dict

from backline.jobs.results import RunRef
from backline.payments.charges import charge
from backline.payments.webhook_parsing import PaymentEvent, insert_event
from backline.settings import ROOT
from tests.integration.airflow import run_dags
from tests.integration.job_factory import get_result
from tests.integration.payments.support import API_KEY, CARD_INSUFFICIENT_FUNDS, CARD_STOLEN, CARD_VALID, Account, Shop
from tests.integration.payments.test_retry_failed_payments import make_due
from tests.unit.payments.signing import intent_event


def test_each_job_runs_in_airflow(shop: Shop, account: Account, database: str, tmp_path: Path) -> None:
    fresh, small, large, stolen, notified = (
        shop.order(), shop.order(CARD_INSUFFICIENT_FUNDS), shop.order(CARD_INSUFFICIENT_FUNDS, price=60_000), shop.order(CARD_STOLEN), shop.order(),
    )  # fmt: skip
    for order in (small, large, stolen):
        charge(shop.database, account.provider(), order)
        shop.change_method(order, CARD_VALID)
    make_due(shop)
    now = datetime.now(UTC)
    event = intent_event(
        "evt_1",
        "payment_intent.succeeded",
        now,
        reference="pi_1",
        amount=2380,
        key=shop.payment(notified)["idempotency_key"],
    )
    with shop.database.transaction():
        insert_event(shop.database, PaymentEvent("stripe", "evt_1", event["type"], now, event))
    folder = tmp_path / "dags"
    folder.mkdir()
    wanted = {
        "process_payment": {"order_id": fresh}, "retry_failed_payments": {"auto_decision": "approve"}, "ingest_payment_webhook": {},
        "generate_invoice": {}, "reconcile_payments": {"days": 1},
    }  # fmt: skip
    for name in wanted:
        shutil.copy(ROOT / "dags" / "commerce" / f"{name}.py", folder)
    known = conninfo_to_dict(database)
    connections = {
        "BACKLINE_DB": {
            "conn_type": "postgres", "host": known["host"], "login": known["user"], "password": known.get("password"),
            "schema": known["dbname"], "port": int(known.get("port") or 5432),
        },
        "STRIPE_API": {"conn_type": "http", "host": account.url, "password": API_KEY},
    }  # fmt: skip
    variables = {f"AIRFLOW_CONN_{name}": json.dumps(value) for name, value in connections.items()}
    done = subprocess.run(
        run_dags.command(folder, wanted), check=False, env=run_dags.environment(tmp_path, folder, variables),
        capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    answer = run_dags.parse_results(done.stdout, done.stderr)
    assert {name: ran["state"] for name, ran in answer.items()} == dict.fromkeys(wanted, "success"), done.stdout[-3000:]
    assert [shop.state(order)[0] for order in (fresh, small, large, stolen, notified)] == [
        "paid",
        "paid",
        "paid",
        "reserved",
        "paid",
    ]
    assert len(account.charges()) == 3
    charged = answer["process_payment"]["tasks"]["process_payment"]["returned"]
    assert charged == {
        "order_id": fresh, "payment_id": shop.payment(fresh)["id"], "state": "paid", "decline": None, "next_attempt_at": None,
        "unsent_messages": 0,
    }  # fmt: skip
    stored = get_result(database, RunRef("process_payment", answer["process_payment"]["run_id"]))
    assert stored is not None
    assert stored["result"] == charged
    retried = answer["retry_failed_payments"]["tasks"]["retry_failed_payments"]["returned"]
    assert retried["retried"]["outcomes"] == {"paid": 2}
    ingested = answer["ingest_payment_webhook"]["tasks"]["ingest_payment_webhook"]["returned"]
    assert (ingested["outcomes"], ingested["failed"]) == ({"applied": 1}, 0)
    invoiced = answer["generate_invoice"]["tasks"]["generate_invoice"]["returned"]
    assert (invoiced["documents"], invoiced["receipts"], invoiced["orders"]["failed"]) == (4, 4, 0)
    reconciled = answer["reconcile_payments"]["tasks"]["reconcile_payments"]["returned"]
    assert (reconciled["provider_count"], reconciled["remaining"]) == (
        4,
        0,
    )  # what is younger than a quarter of an hour may be under way
    assert API_KEY not in done.stdout + done.stderr
    assert shop.invariant_violations() == set()
