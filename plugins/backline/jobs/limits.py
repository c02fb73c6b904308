"""What a task asks the app's database before it starts: a token of its rate, the tables that it needs."""

from __future__ import annotations

from collections.abc import Sequence

from backline.db.connect import session
from backline.db.statements import statement


def reserve_rate_token(dsn: str, job: str, rate_per_minute: float) -> float:
    """Reserve a token of the job's rate; returns in how many seconds it comes, 0 if it is there."""
    values = {"key": f"job:{job}", "interval_seconds": 60.0 / rate_per_minute}
    with session(dsn, name="rate") as connection:
        [row] = connection.execute(statement("jobs", "rate_token_reserve"), values).fetchall()
    return float(row["wait_seconds"])


def missing_tables(dsn: str, names: Sequence[str]) -> list[str]:
    """Those of these tables, views ("app.orders") and columns ("app.orders.paid_at") that the database does not have."""
    with session(dsn, name="tables") as connection:
        rows = connection.execute(statement("jobs", "tables_missing"), {"names": list(names)}).fetchall()
    return [row["name"] for row in rows]


def insert_late_run(dsn: str, dag_id: str, run_id: str, deadline_seconds: float, log_url: str) -> None:
    """Note that a run has not ended by its deadline, once."""
    values = {"dag_id": dag_id, "run_id": run_id, "deadline_seconds": deadline_seconds, "log_url": log_url}
    with session(dsn, name="late") as connection:
        connection.execute(statement("jobs", "late_run_insert"), values)
