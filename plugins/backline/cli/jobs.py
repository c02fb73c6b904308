"""The commands `jobs`: the result and the progress of a job's run."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from backline.cli.console import AsJson, add_group, database, format_local, out, print_json
from backline.errors import Rejected
from backline.jobs.results import RunRef, fetch_result

group = add_group("jobs", "Results and progress of job runs.")

Run = Annotated[str, typer.Argument(metavar="RUN", help="<dag_id>:<run_id>, such as count_orders:manual__1.")]


@group.command()
def result(run: Run, as_json: AsJson = False) -> None:
    """Show what a run returned, as JSON; with --json also its progress and times."""
    row = _fetch(run)
    if row["result"] is None:
        raise Rejected(f"run {run} has no result yet: it is at {row['percent']:g} %")
    print_json(row if as_json else row["result"])


@group.command()
def progress(run: Run, as_json: AsJson = False) -> None:
    """Show how far a run is, and what it is doing."""
    row = _fetch(run)
    if as_json:
        print_json({name: value for name, value in row.items() if name != "result"})
        return
    doing = f"  {row['doing']}" if row["doing"] else ""
    out.print(f"{row['percent']:g} %{doing}  (at {format_local(row['updated_at'])})", markup=False)


def _fetch(run: str) -> dict[str, Any]:
    ref = RunRef.parse(run, "RUN")
    with database("jobs command") as connection:
        row = fetch_result(connection, ref)
    if row is None:
        reasons = "there is no such run, it has not reported anything, or it is no longer kept (result_ttl_seconds)"
        raise Rejected(f"nothing is stored for run {run}: {reasons}")
    return row
