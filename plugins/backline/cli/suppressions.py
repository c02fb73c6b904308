"""The `suppressions` commands: list, add, remove."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.table import Table

from backline.audit_trail import Who
from backline.cli.app import app
from backline.cli.console import add_row, exports, in_short, operator, out, show_table
from backline.db.session import Session, session
from backline.errors import InvalidInput
from backline.messages.fields import read_moment
from backline.preferences import records

group = typer.Typer(
    name="suppressions", help="Addresses that get nothing: look, add, remove.", no_args_is_help=True,
    rich_markup_mode=None,
)  # fmt: skip
app.add_typer(group)

AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable, on stdout.")]
Channel = Annotated[str, typer.Option("--channel", help="email, sms, push or webhook.")]
PAGE = 500


@group.command("list")
def list_suppressions(
    channel: Annotated[str | None, typer.Option("--channel", help="email, sms, push or webhook.")] = None,
    address: Annotated[str | None, typer.Option("--address", help="One address, in any spelling.")] = None,
    reason: Annotated[
        str | None, typer.Option("--reason", help="hard_bounce, complaint, unsubscribed or manual.")
    ] = None,
    most: Annotated[int, typer.Option("--limit", "-n", min=1, max=100_000, help="At most.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List suppressions that hold, newest first."""
    filters = records.Filters(channel, address, reason)
    rows: list[dict[str, Any]] = []
    with _connected() as connection:
        while len(rows) < most:
            cursor = rows[-1]["id"] if rows else None
            page = records.suppressions(connection, filters, cursor, min(PAGE, most - len(rows)))
            rows += page
            if len(page) < PAGE:
                break
    if as_json:
        typer.echo(_json(rows))
        return
    if not rows:
        out.print("No suppressions here.")
        return
    table = Table("id", "channel", "address", "reason", "told by", "since", "until", "detail", box=None)
    for row in rows:
        until = f"{row['until'].astimezone():%Y-%m-%d %H:%M}" if row["until"] else "for good"
        add_row(table, str(row["id"]), row["channel"], row["address"], row["reason"], row["source"],
            f"{row['since'].astimezone():%Y-%m-%d %H:%M}", until, in_short(row["detail"] or "", 60),
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
        ends = None if until is None else read_moment(until)
    except ValueError as exc:
        raise InvalidInput("--until", str(exc)) from None
    with _connected() as connection, connection.transaction():
        row = records.suppress(connection, channel, address, Who(operator()), until=ends, detail=detail)
    _say(row, "is suppressed", as_json)


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
    with _connected() as connection, connection.transaction():
        if suppression_id is None:
            found = records.suppressions(connection, records.Filters(channel, address), None, 1)
            if not found:
                raise InvalidInput("--address", f"{address} is not suppressed for {channel}")
            suppression_id = int(found[0]["id"])
        row = records.lift(connection, suppression_id, Who(operator()))
    _say(row, "can be written to again", as_json)


@contextmanager
def _connected() -> Iterator[Session]:
    with session(exports()["BACKLINE_DATABASE_URL"], name="suppressions") as connection:
        yield connection


def _say(row: dict[str, Any], what: str, as_json: bool) -> None:
    if as_json:
        typer.echo(_json(row))
        return
    until = f" until {row['until'].astimezone():%Y-%m-%d %H:%M %Z}" if what == "is suppressed" and row["until"] else ""
    out.print(f"{row['channel']} {row['address']} {what}{until}", markup=False)


def _json(value: object) -> str:
    return json.dumps(value, indent=2, default=lambda moment: moment.isoformat())
