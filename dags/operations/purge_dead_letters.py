"""### Archives and deletes dead letters past their retention or over the limit

Dead letters are kept for 7 days, and 10,000 of them at most (`[dead_letters]` in `include/config/backline.toml`). All
others are written to a compressed file of JSON lines with a manifest (count, SHA-256). The file is read back before they
are deleted, together with the dead messages that they are about. Nothing is deleted without an archive.

- **dry_run**: counts what would be deleted, up to 20,000, and changes nothing.
- **Limits**: 200,000 dead letters a run. A dead message of a day that the ledger has not frozen yet is kept.
"""

from __future__ import annotations

from airflow.sdk import Param

from backline.airflow.jobs import job_dag, job_task

with job_dag(
    "purge_dead_letters",
    doc=__doc__,
    schedule="30 4 * * *",
    params={"dry_run": Param(False, type="boolean", title="Dry run", description="Only count.")},
    max_active_runs=1,
    priority=2,
    tags=("operations",),
):
    job_task("backline.dead_letters.purge_dead_letters")
