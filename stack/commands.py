"""Commands of the embedded stack: setup, up, down, restart, status, logs, health, env, airflow, seed."""

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

from backline.cli.console import PASS_THROUGH, app, err, out, print_progress
from backline.db.connect import translate_errors
from backline.db.statements import statement
from backline.encryption import Encryptor
from backline.settings import settings
from stack.environment import SANDBOX_USER, to_shell_exports
from stack.lifecycle import Stack
from stack.postgres import MANUAL_RUN_DATABASE
from stack.reference_app import DEFAULT_SEED, MAX_SCALE, SEED_STEPS, SeedResult, seed
from stack.supervisor import log_files

PENDING_COUNT_LIMIT = 100_000
"""Pending messages are counted up to this number, so that the status of a flooded lane stays quick."""
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable, on stdout.")]


@app.command()
def setup() -> None:
    """Create databases, pools and secrets and apply migrations; safe to repeat."""
    current = Stack(print_progress)
    first = not current.paths.setup_state_file.exists()
    current.setup()
    out.print(f"Set up in {current.paths.home}. Next: ./backline up", markup=False)
    if first:
        _print_addresses(current, with_passwords=True)


@app.command()
def up() -> None:
    """Start everything, wait until it is ready, and print the addresses; the passwords once, when it is set up."""
    current = Stack(print_progress)
    first = not current.paths.setup_state_file.exists()
    if not current.up():
        err.print("backline: already up")
    _print_addresses(current, with_passwords=first)


@app.command()
def down() -> None:
    """Stop everything, dispatchers first."""
    out.print("Stopped." if Stack(print_progress).down() else "Nothing was running.")


@app.command()
def restart(
    service: Annotated[str | None, typer.Argument(help="One service; all if not given.")] = None,
) -> None:
    """Restart everything, or one service."""
    current = Stack(print_progress)
    if service:
        current.restart_service(service)
        return
    current.down()
    current = Stack(print_progress)
    current.up()
    _print_addresses(current)


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show services, ports and the pending messages of each lane."""
    current = Stack(print_progress)
    states = current.supervisor.states()
    port = current.supervisor.configured_port() if states else current.paths.port
    found: dict[str, Any] = {
        "home": str(current.paths.home),
        "running": bool(states),
        "url": f"http://localhost:{port}",
        "ports": {
            "api-server": port,
            "smtp": port + 1,
            "mail page": port + 2,
        },
        "services": {name: asdict(state) for name, state in states.items()},
        "lanes": _lane_status(current) if "postgres" in states and states["postgres"].state == "RUNNING" else [],
    }
    if as_json:
        typer.echo(json.dumps(found, indent=2))
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
    for lane in found["lanes"]:
        lanes.add_row(lane["lane"], str(lane["pending"]), str(lane["live_dispatchers"]))
    out.print(lanes)
    out.print(f"{found['url']}  state in {current.paths.home}", markup=False)


@app.command()
def logs(
    service: Annotated[str | None, typer.Argument(help="One service; all if not given.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep printing new lines.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, help="How many of the last lines of each.")] = 100,
) -> None:
    """Show the services' logs."""
    files = [str(path) for path in log_files(Stack(print_progress).paths, service)]
    sys.stdout.flush()
    os.execvp("tail", ["tail", "-n", str(lines), *(["-F"] if follow else []), *files])  # noqa: S606, S607


@app.command()
def health(as_json: AsJson = False) -> None:
    """Check every component; the exit code is 0 only if all are healthy."""
    found = Stack(print_progress).health_checks()
    healthy = all(check.ok for check in found)
    if as_json:
        typer.echo(json.dumps({"healthy": healthy, "checks": [asdict(check) for check in found]}, indent=2))
    else:
        table = Table(box=None, show_header=False)
        for check in found:
            table.add_row("[green]ok[/]" if check.ok else "[red]FAILED[/]", check.name, check.detail)
        out.print(table)
    raise typer.Exit(0 if healthy else 1)


@app.command()
def env() -> None:
    """Print shell exports to use the stack from other programs: eval "$(./backline env)"."""
    typer.echo(to_shell_exports(Stack(print_progress).variables()), nl=False)


@app.command(context_settings=PASS_THROUGH, add_help_option=False)
def airflow(context: typer.Context) -> None:
    """Run the Airflow CLI in the stack's environment; starts the services that it needs."""
    current = Stack(print_progress)
    current.start_base_services()
    sys.stdout.flush()
    database = MANUAL_RUN_DATABASE if context.args[:2] == ["dags", "test"] else "airflow"
    command = [sys.executable, "-P", "-m", "airflow", *context.args]
    os.execve(sys.executable, command, current.subprocess_environment(database))  # noqa: S606


@app.command("seed")
def seed_command(
    scale: Annotated[int, typer.Option(help=f"1 is about 10,000 rows, 100 about a million; at most {MAX_SCALE}.")] = 1,
    number: Annotated[
        int, typer.Option("--seed", help="The same seed, scale and day (UTC) create the same rows.")
    ] = DEFAULT_SEED,
    replace: Annotated[bool, typer.Option("--replace", help="Empty the reference app's tables first.")] = False,
    as_json: AsJson = False,
) -> None:
    """Fill the reference app (schema app of the embedded database) with generated data."""
    current = Stack(print_progress)
    current.setup()
    result = seed(
        current.cluster.dsn("backline"),
        scale,
        number,
        replace=replace,
        encryptor=Encryptor(current.secrets.backline_fernet_keys.split(",")),
        report=print_progress,
    )
    if as_json:
        summary = {
            "scale": scale,
            "seed": number,
            "tables": dict(result.rows),
            "rows": result.total,
            "steps": {name.removeprefix("seed_"): round(seconds, 3) for name, seconds in result.steps.items()},
            "seconds": round(result.seconds, 3),
        }
        typer.echo(json.dumps(summary, indent=2))
        return
    out.print(_seed_table(result))


def _lane_status(current: Stack) -> list[dict[str, Any]]:
    config = settings()
    parameters = {
        "lanes": list(config.lanes),
        "heartbeat_timeout": config.outbox.heartbeat_timeout_seconds,
        "count_limits": [PENDING_COUNT_LIMIT] * len(config.lanes),
    }
    with translate_errors(), psycopg.connect(current.cluster.dsn("backline"), row_factory=dict_row) as connection:
        return connection.execute(statement("outbox", "lane_status"), parameters).fetchall()


def _print_addresses(current: Stack, *, with_passwords: bool = False) -> None:
    logins = {"admin": current.secrets.admin_password, SANDBOX_USER: current.secrets.sandbox_password}
    admin, sandbox = (f"user {name}" + (f", password {logins[name]}" if with_passwords else "") for name in logins)
    out.print(f"Airflow   http://localhost:{current.paths.port}   {admin}", markup=False)
    smtp = f"(SMTP on port {current.paths.smtp_port})"
    out.print(f"Mail      http://localhost:{current.paths.mail_web_port}   {sandbox} {smtp}", markup=False)
    out.print(f"State     {current.paths.home}; passwords: {current.paths.secrets_file}", markup=False)


def _seed_table(result: SeedResult) -> Table:
    """Rows by table; if one statement fills several tables, its seconds are shown at the first."""
    table = Table("table", "rows", "seconds", box=None, show_footer=True)
    for column, total in zip(table.columns, ("all", f"{result.total:,}", f"{result.seconds:.1f}"), strict=True):
        column.footer = total
        column.justify = "left" if total == "all" else "right"
    for step, names in SEED_STEPS.items():
        for name in names:
            table.add_row(name, f"{result.rows[name]:,}", f"{result.steps[step]:.1f}" if name == names[0] else "")
    return table
