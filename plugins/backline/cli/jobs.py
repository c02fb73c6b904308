"""The commands `trigger` and `jobs`: start a job, and show the result and the progress of a run."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from backline.airflow_api import check_conf, log_url
from backline.cli import console
from backline.cli.console import AsJson, add_group, app, database, format_local, out, print_json
from backline.errors import InvalidInput, Rejected
from backline.jobs.results import RunRef, fetch_result

group = add_group("jobs", "Results and progress of job runs.")

Run = Annotated[str, typer.Argument(metavar="RUN", help="<dag_id>:<run_id>, such as count_orders:manual__1.")]


@app.command()
def trigger(
    job: Annotated[str, typer.Argument(help="The job's name, for example purge_dead_letters.")],
    conf: Annotated[str, typer.Option("--conf", help="Its parameters, a JSON object.")] = "{}",
    wait: Annotated[bool, typer.Option("--wait", help="Wait for its end; the exit code is 1 if it failed.")] = False,
    timeout: Annotated[float, typer.Option("--timeout", min=1, help="Maximum seconds to wait.")] = 3600,
    as_json: AsJson = False,
) -> None:
    """Start a job now."""
    parameters = console.parse_json_object("--conf", conf)
    with console.airflow_api() as api:
        try:
            check_conf(job, api.dag_params(job), parameters, "conf")
            run = api.trigger(job, parameters)
        except Rejected as exc:
            if exc.code == "404":
                raise InvalidInput("job", f"there is no job {job!r}; ./backline airflow dags list shows them") from exc
            raise
        url = log_url(console.installation_variables()["BACKLINE_URL"], job, run["dag_run_id"])
        if wait:
            console.print_progress(f"{job} runs: {url}")
            run = api.wait(job, run["dag_run_id"], timeout)
    shown = {"job": job, "run_id": run["dag_run_id"], "state": run["state"], "url": url}
    console.print_result(shown, f"{run['dag_run_id']}: {run['state']}  {url}", as_json)
    raise typer.Exit(1 if run["state"] == "failed" else 0)


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
