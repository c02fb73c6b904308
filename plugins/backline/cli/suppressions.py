"""The `suppressions` commands: list, add, remove."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.table import Table

from backline.audit_trail import Actor
from backline.cli.app import app
from backline.cli.console import add_row, current_operator, installation_variables, out, shorten, show_table
from backline.db.connect import Session, session
from backline.errors import InvalidInput
from backline.messages.fields import parse_timestamp
from backline.preferences import repository

group = typer.Typer(
    name="suppressions", help="Addresses that get nothing: look, add, remove.", no_args_is_help=True,
    rich_markup_mode=None,
)  # fmt: skip
app.add_typer(group)

AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable, on stdout.")]
Channel = Annotated[str, typer.Option("--channel", help="email, sms, push or webhook.")]
PAGE_SIZE = 500


@group.command("list")
def list_suppressions(
    channel: Annotated[str | None, typer.Option("--channel", help="email, sms, push or webhook.")] = None,
    address: Annotated[str | None, typer.Option("--address", help="One address, in any spelling.")] = None,
    reason: Annotated[
        str | None, typer.Option("--reason", help="hard_bounce, complaint, unsubscribed or manual.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=100_000, help="At most.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List suppressions that hold, newest first."""
    filters = repository.SuppressionFilters(channel, address, reason)
    rows: list[dict[str, Any]] = []
    with _connection() as connection:
        while len(rows) < limit:
            cursor = rows[-1]["id"] if rows else None
            page = repository.list_suppressions(connection, filters, cursor, min(PAGE_SIZE, limit - len(rows)))
            rows += page
            if len(page) < PAGE_SIZE:
                break
    if as_json:
        typer.echo(_to_json(rows))
        return
    if not rows:
        out.print("No suppressions here.")
        return
    table = Table("id", "channel", "address", "reason", "told by", "since", "until", "detail", box=None)
    for row in rows:
        until = f"{row['until'].astimezone():%Y-%m-%d %H:%M}" if row["until"] else "for good"
        add_row(table, str(row["id"]), row["channel"], row["address"], row["reason"], row["source"],
            f"{row['since'].astimezone():%Y-%m-%d %H:%M}", until, shorten(row["detail"] or "", 60),
        )  # fmt: skip
    show_table(table)


@group.command()
def add(
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="Whom to write to no more.")],
    channel: Channel = "email",
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="As in 2030-01-31T12:00:00Z; for good if not given.")
    ] = None,
    detail: Annotated[str | None, typer.Option("--reason", help="Why, for those who look.")] = None,
    as_json: AsJson = False,
) -> None:
    """Suppress an address: nothing is sent to it any more."""
    try:
        ends = None if until is None else parse_timestamp(until)
    except ValueError as exc:
        raise InvalidInput("--until", str(exc)) from None
    with _connection() as connection, connection.transaction():
        row = repository.suppress(connection, channel, address, Actor(current_operator()), until=ends, detail=detail)
    _print_result(row, "is suppressed", as_json)


@group.command()
def remove(
    suppression_id: Annotated[int | None, typer.Argument(metavar="[ID]", help="As the list has it.")] = None,
    address: Annotated[str | None, typer.Option("--address", help="In the place of the id.")] = None,
    channel: Channel = "email",
    as_json: AsJson = False,
) -> None:
    """Let an address be written to again."""
    if (suppression_id is None) == (address is None):
        raise InvalidInput("ID", "give an id, or --address")
    with _connection() as connection, connection.transaction():
        if suppression_id is None:
            found = repository.list_suppressions(connection, repository.SuppressionFilters(channel, address), None, 1)
            if not found:
                raise InvalidInput("--address", f"{address} is not suppressed for {channel}")
            suppression_id = int(found[0]["id"])
        row = repository.remove_suppression(connection, suppression_id, Actor(current_operator()))
    _print_result(row, "can be written to again", as_json)


@contextmanager
def _connection() -> Iterator[Session]:
    with session(installation_variables()["BACKLINE_DATABASE_URL"], name="suppressions") as connection:
        yield connection


def _print_result(row: dict[str, Any], what: str, as_json: bool) -> None:
    if as_json:
        typer.echo(_to_json(row))
        return
    until = f" until {row['until'].astimezone():%Y-%m-%d %H:%M %Z}" if what == "is suppressed" and row["until"] else ""
    out.print(f"{row['channel']} {row['address']} {what}{until}", markup=False)


def _to_json(value: object) -> str:
    return json.dumps(value, indent=2, default=lambda moment: moment.isoformat())
