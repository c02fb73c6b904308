"""The `trigger` command."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from backline.cli.app import app
from backline.cli.console import airflow_api, installation_variables, out, print_progress
from backline.errors import InvalidInput, Rejected

AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable, on stdout.")]


@app.command()
def trigger(
    job: Annotated[str, typer.Argument(help="The job's name, for example purge_dead_letters.")],
    conf: Annotated[str, typer.Option("--conf", help="Its parameters, a JSON object.")] = "{}",
    wait: Annotated[bool, typer.Option("--wait", help="Wait until it has ended; exit code 1 if it failed.")] = False,
    timeout: Annotated[float, typer.Option("--timeout", min=1, help="Wait at most so many seconds.")] = 3600,
    as_json: AsJson = False,
) -> None:
    """Start a job now."""
    parameters = parse_json_object("--conf", conf)
    with airflow_api() as airflow:
        run = _start_run(airflow, job, parameters)
        url = f"{installation_variables()['BACKLINE_URL']}/dags/{job}/runs/{run['dag_run_id']}"
        if wait:
            print_progress(f"{job} runs: {url}")
            run = airflow.wait(job, run["dag_run_id"], timeout)
    if as_json:
        typer.echo(json.dumps({"job": job, "run_id": run["dag_run_id"], "state": run["state"], "url": url}))
    else:
        out.print(f"{run['dag_run_id']}: {run['state']}  {url}", markup=False)
    raise typer.Exit(1 if run["state"] == "failed" else 0)


def parse_json_object(option: str, text: str) -> dict[str, Any]:
    """A JSON object given on the command line; InvalidInput names the option."""
    try:
        value = json.loads(text)
    except ValueError as exc:
        raise InvalidInput(option, f'is not valid JSON ({exc}); give an object such as {{"days": 7}}') from None
    if not isinstance(value, dict):
        raise InvalidInput(option, 'must be a JSON object such as {"days": 7}')
    return value


def _start_run(airflow: Any, job: str, parameters: dict[str, Any]) -> dict[str, Any]:
    try:
        known = airflow.get(f"/api/v2/dags/{job}/details")["params"] or {}
        if unknown := sorted(set(parameters) - set(known)):
            raise InvalidInput(
                f"conf.{unknown[0]}", f"{job} has no such parameter; it has: {', '.join(known) or 'none'}"
            )
        started: dict[str, Any] = airflow.trigger(job, parameters)
    except Rejected as exc:
        if exc.code == "404":
            raise InvalidInput("job", f"there is no job {job!r}; ./backline airflow dags list shows them") from exc
        raise
    return started
