"""The `jobs` commands: the result and the progress of a job's run."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from backline.cli.app import app
from backline.cli.console import installation_variables, out
from backline.db.connect import session
from backline.errors import Rejected
from backline.jobs.results import RunRef, fetch_result

group = typer.Typer(
    name="jobs", help="Results and progress of job runs.", no_args_is_help=True, rich_markup_mode=None
)  # fmt: skip
app.add_typer(group)

Run = Annotated[str, typer.Argument(metavar="RUN", help="<dag_id>:<run_id>, as in count_orders:manual__1.")]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable, on stdout, with times.")]


@group.command()
def result(run: Run, as_json: AsJson = False) -> None:
    """Show what a run returned, as JSON."""
    row = _fetch(run)
    if row["result"] is None:
        raise Rejected(f"run {run} has no result yet: it is at {row['percent']:g} %")
    typer.echo(_json(row) if as_json else _json(row["result"]))


@group.command()
def progress(run: Run, as_json: AsJson = False) -> None:
    """Show how far a run is, and what it is doing."""
    row = _fetch(run)
    if as_json:
        typer.echo(_json({name: value for name, value in row.items() if name != "result"}))
        return
    doing = f"  {row['doing']}" if row["doing"] else ""
    out.print(f"{row['percent']:g} %{doing}  (at {row['updated_at'].astimezone():%Y-%m-%d %H:%M:%S})", markup=False)


def _fetch(run: str) -> dict[str, Any]:
    ref = RunRef.parse(run, "RUN")
    with session(installation_variables()["BACKLINE_DATABASE_URL"], name="jobs command") as connection:
        row = fetch_result(connection, ref)
    if row is None:
        reasons = "there is no such run, it has not reported anything, or it is no longer kept (result_ttl_seconds)"
        raise Rejected(f"nothing is stored for run {run}: {reasons}")
    return row


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, default=lambda time: time.isoformat())
