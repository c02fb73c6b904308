"""The `dead-letters` commands: list, show, replay, discard, export."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from backline.cli.app import app
from backline.cli.console import (
    add_row,
    airflow_runs,
    current_operator,
    installation_variables,
    out,
    shorten,
    show_table,
)
from backline.cli.trigger import parse_json_object
from backline.dead_letters import actions as acts
from backline.dead_letters.export import export as exported
from backline.dead_letters.export import to_json_row
from backline.dead_letters.store import DeadLetterStore, Filter
from backline.errors import InvalidInput

group = typer.Typer(
    name="dead-letters", help="What failed for good: look, replay, discard, export.", no_args_is_help=True,
    rich_markup_mode=None,
)  # fmt: skip
app.add_typer(group)

AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable, on stdout.")]
State = Annotated[str | None, typer.Option("--state", help="open, replayed, discarded or resolved; all: every one.")]
Kind = Annotated[str | None, typer.Option("--kind", help="message, job or import.")]
Name = Annotated[str | None, typer.Option("--name", help="Message type, job or DAG file.")]
Class = Annotated[str | None, typer.Option("--class", help="Failure class, such as network.")]
Hours = Annotated[float | None, typer.Option("--hours", min=0.01, help="Seen in the last so many hours.")]
Ids = Annotated[list[int] | None, typer.Argument(metavar="[ID]...", help="Which; or say which by filters and --all.")]
All = Annotated[bool, typer.Option("--all", help="All open ones that the filters match; shows them first, see --yes.")]
Yes = Annotated[bool, typer.Option("--yes", help="With --all: do it. Without: only show what would be done.")]


@group.command("list")
def list_letters(
    state: State = "open",
    kind: Kind = None,
    name: Name = None,
    failure_class: Class = None,
    hours: Hours = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="At most.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List dead letters, newest first; open ones if no state is given."""
    with _open_store() as letters:
        rows = list(letters.every(_filter(state, kind, name, failure_class, hours), limit))
    if as_json:
        typer.echo(json.dumps([to_json_row(row) for row in rows], indent=2))
        return
    if not rows:
        out.print("No dead letters here.")
        return
    table = Table("id", "state", "what", "class", "attempts", "failed", "why", box=None)
    for row in rows:
        add_row(table, str(row["id"]), row["state"], _describe(row), row["class"], str(row["attempts"]),
            f"{row['failed_at'].astimezone():%Y-%m-%d %H:%M:%S}", shorten(row["cause"]),
        )  # fmt: skip
    show_table(table)


@group.command()
def show(letter_id: Annotated[int, typer.Argument(metavar="ID")], as_json: AsJson = False) -> None:
    """Show one dead letter with all that is known of it."""
    with _open_store() as letters:
        row = to_json_row(letters.get(letter_id))
    if as_json:
        typer.echo(json.dumps(row, indent=2))
        return
    table = Table(box=None, show_header=False)
    for key, value in row.items():
        if value is not None:
            add_row(table, key.replace("_", " "), json.dumps(value) if isinstance(value, dict) else str(value))
    show_table(table)
    if row["state"] == "open":
        out.print(f"./backline dead-letters replay {letter_id}", style="dim")


@group.command()
def replay(
    ids: Ids = None,
    edited: Annotated[
        str | None, typer.Option("--edited", help="Conf or payload in the place of the old one, a JSON object.")
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
    """Try again: a job as a new run, a message under its own id (edited: as a new one), a DAG file read anew."""
    changed = None if edited is None else parse_json_object("--edited", edited)
    if changed is not None and (everything or len(ids or []) != 1):
        raise InvalidInput("--edited", "is for one dead letter; give its id")
    with _open_store() as letters, airflow_runs() as runs:

        def act(letter_id: int) -> acts.ReplayResult:
            return acts.replay(letters, runs, letter_id, by=current_operator(), edited=changed, reason=reason)

        _apply(
            letters, act, ids, everything, _filter("open", kind, name, failure_class, hours), yes, as_json, "replayed"
        )


@group.command()
def discard(
    reason: Annotated[str, typer.Option("--reason", help="Why it can be given up; required.")],
    ids: Ids = None,
    everything: All = False,
    kind: Kind = None,
    name: Name = None,
    failure_class: Class = None,
    hours: Hours = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Give up, saying why."""
    with _open_store() as letters:

        def act(letter_id: int) -> None:
            acts.discard(letters, letter_id, by=current_operator(), reason=reason)

        _apply(
            letters, act, ids, everything, _filter("open", kind, name, failure_class, hours), yes, as_json, "discarded"
        )


@group.command()
def export(
    form: Annotated[str, typer.Option("--format", help="jsonl or csv.")] = "jsonl",
    file: Annotated[Path | None, typer.Option("--output", "-o", help="A file; stdout if not given.")] = None,
    state: State = "all",
    kind: Kind = None,
    name: Name = None,
    failure_class: Class = None,
    hours: Hours = None,
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format jsonl.")] = False,
) -> None:
    """Write dead letters as JSON lines or CSV."""
    with _open_store() as letters:
        lines = exported(letters.every(_filter(state, kind, name, failure_class, hours)), "jsonl" if as_json else form)
        if file is None:
            sys.stdout.writelines(lines)
            return
        try:
            with file.open("w", encoding="utf-8", newline="") as target:
                target.writelines(lines)
        except OSError as exc:
            raise InvalidInput("--output", f"{file}: {exc.strerror}; give a file that you can write") from exc


def _apply(
    letters: DeadLetterStore,
    act: Callable[[int], object],
    ids: list[int] | None,
    everything: bool,
    wanted: Filter,
    yes: bool,
    as_json: bool,
    done: str,
) -> None:
    if everything == bool(ids):
        raise InvalidInput("ID", "give one or more ids, or --all with filters, not both")
    if everything:
        report = acts.run_bulk(letters, wanted, act, dry_run=not yes)
        _print_report(done, report.dry_run, report.done, report.failed, as_json)
        raise typer.Exit(1 if report.failed else 0)
    answers: list[dict[str, Any]] = []
    for letter_id in ids or []:
        answer = act(letter_id)
        reference = answer.reference if isinstance(answer, acts.ReplayResult) else None
        answers.append({"id": letter_id, done: True, "as": reference})
        if not as_json:
            out.print(f"{letter_id} {done}" + (f" as {reference}" if reference else ""), markup=False)
    if as_json:
        typer.echo(json.dumps(answers))


def _print_report(done: str, dry_run: bool, ids: list[int], failed: dict[int, str], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"dry_run": dry_run, done: ids, "failed": failed}))
        return
    if dry_run:
        shown = ", ".join(str(letter_id) for letter_id in ids[:20]) + (", ..." if len(ids) > 20 else "")
        out.print(f"{len(ids)} would be {done}: {shown or 'none'}. Do it with --yes", markup=False)
        return
    out.print(f"{len(ids)} {done}, {len(failed)} not", markup=False)
    for letter_id, why in failed.items():
        out.print(f"{letter_id}: {why}", markup=False)


def _open_store() -> Any:
    return DeadLetterStore.open(installation_variables()["BACKLINE_DATABASE_URL"])


def _filter(
    state: str | None, kind: str | None, name: str | None, failure_class: str | None, hours: float | None
) -> Filter:
    since = None if hours is None else datetime.now(UTC) - timedelta(hours=hours)
    return Filter(None if state == "all" else state, kind, name, failure_class, since)


def _describe(row: dict[str, Any]) -> str:
    if row["kind"] == "message":
        return f"message {row['name']} {row['message_id']}"
    if row["kind"] == "import":
        return f"file {row['name']}"
    task = f".{row['task_id']}" if row["task_id"] else ""
    return f"job {row['name']}{task}" + (f"[{row['map_index']}]" if row["map_index"] != -1 else "")
