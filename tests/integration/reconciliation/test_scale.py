"""100,000 payments within a minute, in bounded memory."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest

from backline.settings import ROOT
from tests.integration.reconciliation.support import COLUMNS

NOW = datetime(2031, 6, 2, tzinfo=UTC)
SECONDS = 60
MAX_GROWTH_MIB = 48
"""Additional memory for ten times as many payments: the libraries' arenas, and eight bytes a payment."""
# Without triggers, which would check a hundred thousand orders.
FILL: tuple[LiteralString, ...] = (
    "SET session_replication_role = replica",
    (
        "INSERT INTO app.orders (id, number, user_id, state, currency, net_minor, tax_minor, ship_to_country, placed_at, reserved_at, paid_at)"
        " SELECT 1000000 + n, 'S-' || n, 1, 'paid', 'EUR', 1000 + n, 0, 'DE', at, at, at FROM generate_series(1, %(n)s) AS n,"
        " LATERAL (SELECT %(now)s::timestamptz - interval '20 hours' + n * interval '0.6 seconds' AS at) AS t"
    ),
    (
        "INSERT INTO app.payments (id, order_id, provider, provider_reference, idempotency_key, amount_minor, currency, state, attempts, created_at, captured_at)"
        " SELECT 1000000 + n, 1000000 + n, 'stripe', 'pi_' || n, 'order-S-' || n, 1000 + n, 'EUR', 'captured', 1, at, at"
        " FROM generate_series(1, %(n)s) AS n,"
        " LATERAL (SELECT %(now)s::timestamptz - interval '20 hours' + n * interval '0.6 seconds' AS at) AS t"
    ),
    "SET session_replication_role = origin",
    "ANALYZE app.payments",
)
RUN = """
import json, resource, sys, time
from datetime import datetime, timedelta
from pathlib import Path
from backline.reconciliation.csv_statement import CsvStatement
from backline.reconciliation.reconcile_payments import reconcile
from backline.reconciliation.settings import ReconciliationSettings
from tests.integration.job_factory import create_job
dsn, path, folder, now = sys.argv[1:]
until = datetime.fromisoformat(now)
started = time.monotonic()
job = create_job(dsn, ReconciliationSettings(report_folder=folder))
result = job.execute(lambda job: reconcile(job, "stripe", CsvStatement(Path(path)), until - timedelta(days=1), until))
print(json.dumps({**result, "seconds": time.monotonic() - started,
                  "mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
"""


def measure(dsn: str, tmp_path: Path, count: int) -> dict[str, object]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("DELETE FROM app.payments WHERE id > 1000000")
        connection.execute("SET session_replication_role = replica")
        connection.execute("DELETE FROM app.orders WHERE id > 1000000")
        for query in FILL:
            connection.execute(query, {"n": count, "now": NOW} if "%(" in query else None)
    path = tmp_path / f"{count}.csv"
    with path.open("w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(COLUMNS)
        for n in range(1, count + 1):
            if n % 1000 == 1:
                continue  # missing at the provider
            at = NOW - timedelta(hours=20) + n * timedelta(seconds=0.6)
            lines.writerow(
                (f"pi_{n}", 1000 + n + (n % 1000 == 2), "eur", "succeeded", at.isoformat(), 0, 1_000_000 + n)
            )
    done = subprocess.run(
        [sys.executable, "-c", RUN, dsn, str(path), str(tmp_path / "reports"), NOW.isoformat()],
        check=True, capture_output=True, text=True, timeout=240,
        env={"PYTHONPATH": f"{ROOT / 'plugins'}:{ROOT}", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)},
    )  # fmt: skip
    found: dict[str, object] = json.loads(done.stdout)
    return found


@pytest.mark.timeout(280)
def test_a_hundred_thousand_payments_within_a_minute_in_bounded_memory(seeded_database: str, tmp_path: Path) -> None:
    few = measure(seeded_database, tmp_path, 10_000)
    assert (few["provider_count"], few["local_count"]) == (9_990, 10_000)
    many = measure(seeded_database, tmp_path, 100_000)
    assert (many["provider_count"], many["local_count"]) == (99_900, 100_000)
    assert many["found"] == {"amount": 100, "missing_there": 100}
    assert float(str(many["seconds"])) < SECONDS
    assert float(str(many["mib"])) - float(str(few["mib"])) < MAX_GROWTH_MIB
