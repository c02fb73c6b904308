"""The command `trigger`."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from backline.airflow_api import check_conf, log_url
from backline.cli.console import (
    AsJson,
    airflow_api,
    app,
    installation_variables,
    out,
    parse_json_object,
    print_progress,
)
from backline.errors import InvalidInput, Rejected


@app.command()
def trigger(
    job: Annotated[str, typer.Argument(help="The job's name, for example purge_dead_letters.")],
    conf: Annotated[str, typer.Option("--conf", help="Its parameters, a JSON object.")] = "{}",
    wait: Annotated[bool, typer.Option("--wait", help="Wait for its end; the exit code is 1 if it failed.")] = False,
    timeout: Annotated[float, typer.Option("--timeout", min=1, help="Maximum seconds to wait.")] = 3600,
    as_json: AsJson = False,
) -> None:
    """Start a job now."""
    parameters = parse_json_object("--conf", conf)
    with airflow_api() as api:
        try:
            check_conf(job, api.dag_params(job), parameters, "conf")
            run = api.trigger(job, parameters)
        except Rejected as exc:
            if exc.code == "404":
                raise InvalidInput("job", f"there is no job {job!r}; ./backline airflow dags list shows them") from exc
            raise
        url = log_url(installation_variables()["BACKLINE_URL"], job, run["dag_run_id"])
        if wait:
            print_progress(f"{job} runs: {url}")
            run = api.wait(job, run["dag_run_id"], timeout)
    if as_json:
        typer.echo(json.dumps({"job": job, "run_id": run["dag_run_id"], "state": run["state"], "url": url}))
    else:
        out.print(f"{run['dag_run_id']}: {run['state']}  {url}", markup=False)
    raise typer.Exit(1 if run["state"] == "failed" else 0)
