"""Dummy DAGs in a copy of the project for the catalogue's jobs that have no DAG yet: what they will cost at rest."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

SCHEDULES_FILE = Path(__file__).with_name("catalog_schedules.toml")
WATCH = "watch"
WATCH_MINUTES = 15
_DAG = '''\
"""### A job that does nothing"""

from __future__ import annotations

from backline.airflow.jobs import job_dag, job_task
from backline.airflow.poller import watch_schedule

with job_dag("{job}", doc=__doc__, schedule={schedule}, max_active_runs=1):
    job_task("backline.idle_dummies.do_nothing")
'''
_FUNCTION = '''\
"""What a dummy job does."""

from __future__ import annotations

from typing import Any

from backline.db.statements import statement


def do_nothing(job: Any) -> dict[str, int]:
    """Ask the database for work, as every job does, and find none."""
    rows = job.database.execute(statement("idle_dummies", "nothing_is_due")).fetchall()
    return {"found": sum(row["due"] for row in rows)}
'''
_STATEMENTS = """\
-- Statements of dummy jobs.

-- name: nothing_is_due
-- Reads an index and finds nothing.
SELECT EXISTS (SELECT FROM backline.message WHERE state = 'dead' AND finalized_at > clock_timestamp()) AS due;
"""


def catalog_jobs() -> dict[str, tuple[str, str]]:
    """Every job of the catalogue: its folder, and its schedule (a cron expression, `WATCH` or "")."""
    domains: Mapping[str, Mapping[str, str]] = tomllib.loads(SCHEDULES_FILE.read_text(encoding="utf-8"))
    return {job: (domain, schedule) for domain, jobs in domains.items() for job, schedule in jobs.items()}


@contextmanager
def dummy_jobs(project: Path) -> Iterator[list[str]]:
    """A DAG, and what it needs, for each job without one, in a copy of the project; yields their ids."""
    existing = {path.stem for path in (project / "dags").rglob("*.py")}
    missing = {job: place for job, place in catalog_jobs().items() if job not in existing}
    watched = [job for job, (_, schedule) in missing.items() if schedule == WATCH]
    config = project / "include" / "config" / "backline.toml"
    shipped = config.read_text(encoding="utf-8")
    sections = (f'\n[watches.{job}]\nstatement = "idle_dummies.nothing_is_due"\n' for job in watched)
    files = {
        project / "plugins" / "backline" / "idle_dummies" / "__init__.py": "",
        project / "plugins" / "backline" / "idle_dummies" / "do_nothing.py": _FUNCTION,
        project / "include" / "sql" / "idle_dummies.sql": _STATEMENTS,
        config: shipped + "".join(sections),
        **{
            project / "dags" / domain / f"{job}.py": _DAG.format(job=job, schedule=_schedule(job, schedule, watched))
            for job, (domain, schedule) in missing.items()
        },
    }
    for path, text in files.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    try:
        yield sorted(missing)
    finally:
        for path in files:
            path.unlink()
        config.write_text(shipped, encoding="utf-8")


def _schedule(job: str, schedule: str, watched: Sequence[str]) -> str:
    """The schedule as an expression of a DAG file."""
    if schedule != WATCH:
        return repr(schedule or None)
    # The shipped crons take the even minutes and the first odd ones.
    minute = (9 + 2 * watched.index(job)) % WATCH_MINUTES
    return f'watch_schedule("{job}", cron="{minute}-59/{WATCH_MINUTES} * * * *")'
