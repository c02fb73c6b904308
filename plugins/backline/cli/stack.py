"""Commands of the embedded stack: setup, up, down, restart, status, logs, health, env, airflow."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from typing import Annotated, Any

import psycopg
import typer
from psycopg.rows import dict_row
from rich.table import Table

from backline.cli.app import PASS_THROUGH, app
from backline.cli.console import err, out, stack
from backline.db.connect import translate_errors
from backline.db.statements import statement
from backline.settings import settings
from stack.environment import to_shell_exports
from stack.lifecycle import Stack
from stack.postgres import MANUAL_RUN_DATABASE
from stack.supervisor import log_files

PENDING_COUNT_LIMIT = 100_000
"""Waiting messages are counted up to here, so that a look at a flooded lane stays quick."""
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable, on stdout.")]


@app.command()
def setup() -> None:
    """Make databases, migrations, pools and secrets; safe to repeat."""
    current = stack()
    current.setup()
    out.print(f"Set up in {current.paths.home}. Next: ./backline up", markup=False)


@app.command()
def up() -> None:
    """Start everything, wait until it is ready, and say where to look."""
    current = stack()
    if not current.up():
        err.print("backline: already up")
    _print_addresses(current)


@app.command()
def down() -> None:
    """Stop everything, dispatchers first."""
    out.print("Stopped." if stack().down() else "Nothing was running.")


@app.command()
def restart(
    service: Annotated[str | None, typer.Argument(help="One service; all of them if not given.")] = None,
) -> None:
    """Restart everything, or one service."""
    current = stack()
    if service:
        current.restart_service(service)
        return
    current.down()
    current = stack()
    current.up()
    _print_addresses(current)


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show services, ports and how much waits in each lane."""
    current = stack()
    states = current.supervisor.states()
    port = current.supervisor.configured_port() if states else current.paths.port
    answer: dict[str, Any] = {
        "home": str(current.paths.home),
        "running": bool(states),
        "url": f"http://localhost:{port}",
        "ports": {
            "api-server": port,
            "smtp": port + 1,
            "mail page": port + 2,
            "worker logs": port + 3,
            "trigger logs": port + 4,
        },
        "services": {name: asdict(state) for name, state in states.items()},
        "lanes": _lane_status(current) if "postgres" in states and states["postgres"].state == "RUNNING" else [],
    }
    if as_json:
        typer.echo(json.dumps(answer, indent=2))
        return
    if not states:
        out.print(f"Not running ({current.paths.home}). Start it with ./backline up", markup=False)
        return
    services = Table("service", "state", "process", "up for", box=None)
    for state in states.values():
        services.add_row(
            state.name, state.state.lower(), str(state.pid or ""), f"{state.uptime:.0f} s" if state.pid else ""
        )
    out.print(services)
    lanes = Table("lane", "pending", "dispatchers", box=None)
    for lane in answer["lanes"]:
        lanes.add_row(lane["lane"], str(lane["pending"]), str(lane["live"]))
    out.print(lanes)
    out.print(f"{answer['url']}  state in {current.paths.home}", markup=False)


@app.command()
def logs(
    service: Annotated[str | None, typer.Argument(help="One service; all of them if not given.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as lines come.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many last lines of each.")] = 100,
) -> None:
    """Show the services' logs."""
    files = [str(path) for path in log_files(stack().paths, service)]
    sys.stdout.flush()
    os.execvp("tail", ["tail", "-n", str(lines), *(["-F"] if follow else []), *files])  # noqa: S606, S607


@app.command()
def health(as_json: AsJson = False) -> None:
    """Check every component; the exit code is 0 only if all are well."""
    found = stack().health_checks()
    well = all(check.ok for check in found)
    if as_json:
        typer.echo(json.dumps({"healthy": well, "checks": [asdict(check) for check in found]}, indent=2))
    else:
        table = Table(box=None, show_header=False)
        for check in found:
            table.add_row("[green]ok[/]" if check.ok else "[red]FAILED[/]", check.name, check.detail)
        out.print(table)
    raise typer.Exit(0 if well else 1)


@app.command()
def env() -> None:
    """Print shell exports to use the stack from outside: eval "$(./backline env)"."""
    typer.echo(to_shell_exports(stack().variables()), nl=False)


@app.command(context_settings=PASS_THROUGH, add_help_option=False)
def airflow(context: typer.Context) -> None:
    """Run the Airflow CLI in the stack's environment, starting what it needs."""
    current = stack()
    current.start_base_services()
    sys.stdout.flush()
    metadata = MANUAL_RUN_DATABASE if context.args[:2] == ["dags", "test"] else "airflow"
    os.execve(
        sys.executable, [sys.executable, "-P", "-m", "airflow", *context.args], current.subprocess_environment(metadata)
    )


def _lane_status(current: Stack) -> list[dict[str, Any]]:
    config = settings()
    look = {
        "lanes": list(config.lanes),
        "heartbeat_timeout": config.outbox.heartbeat_timeout_seconds,
        "count_limits": [PENDING_COUNT_LIMIT] * len(config.lanes),
    }
    with translate_errors(), psycopg.connect(current.cluster.dsn("backline"), row_factory=dict_row) as connection:
        return connection.execute(statement("outbox", "lane_status"), look).fetchall()


def _print_addresses(current: Stack) -> None:
    out.print(
        f"Airflow   http://localhost:{current.paths.port}   user admin, password {current.secrets.admin_password}",
        markup=False,
    )
    out.print(
        f"Mail      http://localhost:{current.paths.mail_web_port}   (SMTP on port {current.paths.smtp_port})",
        markup=False,
    )
    out.print(f"State     {current.paths.home}; other users' passwords: {current.paths.secrets_file}", markup=False)
