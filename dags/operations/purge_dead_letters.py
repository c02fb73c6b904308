"""### Archives and deletes dead letters past their time or over the cap

Dead letters are kept for 7 days, and 10,000 of them at most (`[dead_letters]` in `include/config/backline.toml`). Those
beyond are written to a compressed file of JSON lines with a manifest (count, SHA-256), the file is read back, and only
then they are deleted, with the dead messages that they are about. Nothing is dropped without an archive.

- **dry_run**: counts what would go, and changes nothing.
- **Bounded**: 200,000 letters a run; a dead message of a day whose books are still open waits until they are closed.
"""

from __future__ import annotations

from airflow.sdk import Param, task

from backline.airflow.dead_letters import run_purge
from backline.airflow.jobs import job_dag

with job_dag(
    "purge_dead_letters",
    doc=__doc__,
    schedule="30 4 * * *",
    params={"dry_run": Param(False, type="boolean", title="Dry run", description="Only count.")},
    max_active_runs=1,
    priority=2,
    tags=("operations",),
) as dag:

    @task
    def purge(params: dict[str, bool]) -> dict[str, object]:
        """Writes the archive, reads it back, deletes; returns what was done and the files' names."""
        return run_purge(dry_run=params["dry_run"])

    purge()
