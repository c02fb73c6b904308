"""The commands `failures` and `dead-letters`: list, show, replay, discard, export."""

from __future__ import annotations

import json
import sys
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from backline.cli import console
from backline.cli.console import AsJson, app, out
from backline.dead_letters import actions
from backline.dead_letters.export import export as export_lines
from backline.dead_letters.store import KINDS, STATES, DeadLetterStore, Filter, Row
from backline.errors import InvalidInput

group = console.add_group("dead-letters", "Failures after the last attempt: list, show, replay, discard, export.")

State = Annotated[str | None, typer.Option("--state", help=f"{', '.join(STATES)}, or all.")]
Kind = Annotated[str | None, typer.Option("--kind", help=f"{', '.join(KINDS)}.")]
Name = Annotated[str | None, typer.Option("--name", help="Message type, job or DAG file.")]
Class = Annotated[str | None, typer.Option("--class", help="Failure class, such as network.")]
Hours = Annotated[float | None, typer.Option("--hours", min=0.01, help="Seen in the last so many hours.")]
Ids = Annotated[list[int] | None, typer.Argument(metavar="[ID]...", help="Ids; or use --all with filters.")]
All = Annotated[bool, typer.Option("--all", help="All open ones that match the filters; needs --yes to change them.")]
Yes = Annotated[bool, typer.Option("--yes", help="With --all: change them. Without it they are only listed.")]


@app.command()
def failures(
    hours: Annotated[float, typer.Option("--hours", min=0.01, help="How far back.")] = 24.0,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="Maximum number of groups.")] = 30,
    as_json: AsJson = False,
) -> None:
    """Show failures after the last attempt, grouped by name, task and class, the most frequent first."""
    with _open_store() as store:
        groups = store.failure_groups(datetime.now(UTC) - timedelta(hours=hours), limit)
    columns = {
        "failures": lambda row: row["failures"],
        "open": lambda row: row["open"],
        "what": lambda row: f"{row['kind']} {row['name']}" + (f".{row['task_id']}" if row["task_id"] else ""),
        "class": lambda row: row["class"],
        "last": lambda row: console.format_local(row["last_at"]),
        "last cause": lambda row: console.shorten(row["last_cause"]),
    }
    console.print_rows(groups, columns, f"No failures in the last {hours:g} hours.", as_json)


@group.command("list")
def list_letters(
    state: State = "open",
    kind: Kind = None,
    name: Name = None,
    failure_class: Class = None,
    hours: Hours = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="Maximum number.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List dead letters, newest first; open ones if no state is given."""
    with _open_store() as store:
        rows = list(store.iterate(_filter(state, kind, name, failure_class, hours), limit))
    columns = {
        "id": lambda row: row["id"],
        "state": lambda row: row["state"],
        "what": _describe,
        "class": lambda row: row["class"],
        "attempts": lambda row: row["attempts"],
        "failed": lambda row: console.format_local(row["failed_at"]),
        "cause": lambda row: console.shorten(row["cause"]),
    }
    console.print_rows(rows, columns, "No dead letters match.", as_json)


@group.command()
def show(letter_id: Annotated[int, typer.Argument(metavar="ID")], as_json: AsJson = False) -> None:
    """Show everything about one dead letter."""
    with _open_store() as store:
        row = store.get(letter_id)
    if as_json:
        console.print_json(row)
        return
    console.print_fields((key, json.dumps(value) if isinstance(value, dict) else value) for key, value in row.items())
    if row["state"] == "open":
        out.print(f"./backline dead-letters replay {letter_id}", style="dim")


@group.command()
def replay(
    ids: Ids = None,
    edited: Annotated[
        str | None, typer.Option("--edited", help="Conf or payload that replaces the old one, a JSON object.")
    ] = None,
    reason: Annotated[str | None, typer.Option("--reason", help="Why, for the record.")] = None,
    everything: All = False,
    kind: Kind = None,
    name: Name = None,
    failure_class: Class = None,
    hours: Hours = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Run again: a job or its item by a new run, a message under its own id (edited: a new one), a DAG file by parsing it."""
    conf = None if edited is None else console.parse_json_object("--edited", edited)
    if conf is not None and (everything or len(ids or []) != 1):
        raise InvalidInput("--edited", "is for one dead letter; give its id")
    with _open_store() as store, console.airflow_runs() as runs:
        operator = console.actor().name
        if _is_bulk(ids, everything):
            wanted = _filter("open", kind, name, failure_class, hours)
            report = actions.replay_bulk(store, runs, wanted, by=operator, reason=reason, dry_run=not yes)
            _print_report(report, "replayed", as_json)
        results = []
        for letter_id in ids or []:
            done = actions.replay(store, runs, letter_id, by=operator, edited=conf, reason=reason)
            results.append({"id": letter_id, "replayed": True, "as": done.reference})
            if not as_json:
                out.print(f"{letter_id} replayed as {done.reference}", markup=False)
    if as_json:
        typer.echo(json.dumps(results))


@group.command()
def discard(
    reason: Annotated[str, typer.Option("--reason", help="Why no replay is needed; required.")],
    ids: Ids = None,
    everything: All = False,
    kind: Kind = None,
    name: Name = None,
    failure_class: Class = None,
    hours: Hours = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Close dead letters without a replay."""
    with _open_store() as store:
        operator = console.actor().name
        if _is_bulk(ids, everything):
            wanted = _filter("open", kind, name, failure_class, hours)
            report = actions.discard_bulk(store, wanted, by=operator, reason=reason, dry_run=not yes)
            _print_report(report, "discarded", as_json)
        for letter_id in ids or []:
            actions.discard(store, letter_id, by=operator, reason=reason)
            if not as_json:
                out.print(f"{letter_id} discarded", markup=False)
    if as_json:
        typer.echo(json.dumps([{"id": letter_id, "discarded": True, "as": None} for letter_id in ids or []]))


@group.command()
def export(
    export_format: Annotated[str, typer.Option("--format", help="jsonl or csv.")] = "jsonl",
    file: Annotated[Path | None, typer.Option("--output", "-o", help="A file; stdout if not given.")] = None,
    state: State = "all",
    kind: Kind = None,
    name: Name = None,
    failure_class: Class = None,
    hours: Hours = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format jsonl.")] = False,
) -> None:
    """Write dead letters as JSON lines or CSV."""
    with _open_store() as store:
        rows = store.iterate(_filter(state, kind, name, failure_class, hours))
        lines = export_lines(rows, "jsonl" if as_json else export_format)
        if file is None:
            sys.stdout.writelines(lines)
            return
        try:
            with file.open("w", encoding="utf-8", newline="") as target:
                target.writelines(lines)
        except OSError as exc:
            raise InvalidInput("--output", f"{file}: {exc.strerror}; give a file that you can write") from exc


def _is_bulk(ids: list[int] | None, everything: bool) -> bool:
    if everything == bool(ids):
        raise InvalidInput("ID", "give one or more ids, or --all with filters, not both")
    return everything


def _print_report(report: actions.BulkReport, done: str, as_json: bool) -> NoReturn:
    listed = ", ".join(map(str, report.done[:20])) + (", ..." if len(report.done) > 20 else "")
    if as_json:
        typer.echo(json.dumps({"dry_run": report.dry_run, done: report.done, "failed": report.failed}))
    elif report.dry_run:
        out.print(f"{len(report.done)} would be {done}: {listed or 'none'}. Add --yes to do it", markup=False)
    else:
        out.print(f"{len(report.done)} {done}, {len(report.failed)} not", markup=False)
        for letter_id, problem in report.failed.items():
            out.print(f"{letter_id}: {problem}", markup=False)
    raise typer.Exit(1 if report.failed else 0)


def _open_store() -> AbstractContextManager[DeadLetterStore]:
    return DeadLetterStore.open(console.installation_variables()["BACKLINE_DATABASE_URL"])


def _filter(
    state: str | None, kind: str | None, name: str | None, failure_class: str | None, hours: float | None
) -> Filter:
    since = None if hours is None else datetime.now(UTC) - timedelta(hours=hours)
    return Filter(None if state == "all" else state, kind, name, failure_class, since)


def _describe(row: Row) -> str:
    if row["kind"] == "message":
        return f"message {row['name']} {row['message_id']}"
    if row["kind"] == "import":
        return f"file {row['name']}"
    if row["kind"] == "item":
        return f"item {row['name']} {row['item_key']}"
    task = f".{row['task_id']}" if row["task_id"] else ""
    return f"job {row['name']}{task}" + (f"[{row['map_index']}]" if row["map_index"] != -1 else "")
