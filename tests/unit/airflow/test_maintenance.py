"""Maintenance deletes what has expired, and nothing else."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backline.airflow.maintenance import RUN_RETENTION_DAYS, RUN_TABLES, prune_airflow, prune_task_logs
from backline.errors import NetworkFailure


def test_old_log_files_are_deleted(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    old = (now - timedelta(days=RUN_RETENTION_DAYS, hours=1)).timestamp()
    for name in (
        "dag_id=a/run_id=old/attempt=1.log",
        "dag_id=a/run_id=new/attempt=1.log",
        "dag_id=a/run_id=old/note.txt",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    (tmp_path / "empty").mkdir()
    for name in ("dag_id=a/run_id=old/attempt=1.log", "dag_id=a/run_id=old/note.txt", "empty"):
        os.utime(tmp_path / name, (old, old))
    assert prune_task_logs(tmp_path, now) == 1
    assert not (tmp_path / "empty").exists()
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {"dag_id=a/run_id=new/attempt=1.log", "dag_id=a/run_id=old/note.txt"}


def test_triggers_are_never_deleted() -> None:
    assert "trigger" not in RUN_TABLES.split(",")


def test_nothing_is_pruned_if_airflow_is_not_available(tmp_path: Path) -> None:
    old = tmp_path / "old.log"
    old.write_text("x")
    os.utime(old, (0, 0))
    environ = {
        "BACKLINE_URL": "http://127.0.0.1:9",
        "BACKLINE_USER": "admin",
        "BACKLINE_PASSWORD": "x",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(tmp_path),
    }
    with pytest.raises(NetworkFailure, match="/auth/token"):
        prune_airflow(datetime.now(UTC), environ)
    assert old.exists()
