"""The commands `trigger` and `jobs result`: start a job, and read its progress and result."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from backline.airflow_api import check_conf, log_url
from backline.cli import console
from backline.cli.console import AsJson, app
from backline.errors import InvalidInput, Rejected
from backline.jobs.results import RunRef, get_result

group = console.add_group("jobs", "What jobs leave: results.")

Job = Annotated[str, typer.Argument(help="The job's name, for example purge_dead_letters.")]


@app.command()
def trigger(
    job: Job,
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
def result(
    job: Job,
    run: Annotated[str, typer.Argument(help="The run's id, as trigger prints it.")],
    as_json: AsJson = False,
) -> None:
    """Show a run's result, or its progress while it has none."""
    found = get_result(console.installation_variables()["BACKLINE_DATABASE_URL"], RunRef(job, run))
    if found is None:
        raise InvalidInput("run", f"{job}/{run} has no result: it has not stored one, or it has expired")
    progress = f"{found['percent'] or 0:.0f} % {found['doing'] or ''}".strip()
    text = progress if found["result"] is None else json.dumps(found["result"], indent=2)
    console.print_result({"job": found.pop("dag_id"), **found}, text, as_json)
