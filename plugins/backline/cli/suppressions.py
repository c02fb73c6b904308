"""The commands `suppressions`: list, add, remove."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.table import Table

from backline.audit_trail import Actor
from backline.cli.console import (
    AsJson,
    add_group,
    add_row,
    current_operator,
    database,
    out,
    parse_time,
    print_json,
    print_result,
    shorten,
    show_table,
)
from backline.errors import InvalidInput
from backline.preferences import repository

group = add_group("suppressions", "Addresses that nothing is sent to: list, add, remove.")

CHANNELS = "email, sms, push or webhook."
Channel = Annotated[str, typer.Option("--channel", help=CHANNELS)]
PAGE_SIZE = 500


@group.command("list")
def list_suppressions(
    channel: Annotated[str | None, typer.Option("--channel", help=CHANNELS)] = None,
    address: Annotated[str | None, typer.Option("--address", help="One address, in any spelling.")] = None,
    reason: Annotated[
        str | None, typer.Option("--reason", help="hard_bounce, complaint, unsubscribed or manual.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=100_000, help="Maximum number.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List active suppressions, newest first."""
    filters = repository.SuppressionFilters(channel, address, reason)
    rows: list[dict[str, Any]] = []
    with database("suppressions") as connection:
        while len(rows) < limit:
            cursor = rows[-1]["id"] if rows else None
            page = repository.list_suppressions(connection, filters, cursor, min(PAGE_SIZE, limit - len(rows)))
            rows += page
            if len(page) < PAGE_SIZE:
                break
    if as_json:
        print_json(rows)
        return
    if not rows:
        out.print("No suppressions match.")
        return
    table = Table("id", "channel", "address", "reason", "source", "since", "until", "detail", box=None)
    for row in rows:
        until = f"{row['until'].astimezone():%Y-%m-%d %H:%M}" if row["until"] else "for good"
        add_row(table, str(row["id"]), row["channel"], row["address"], row["reason"], row["source"],
            f"{row['since'].astimezone():%Y-%m-%d %H:%M}", until, shorten(row["detail"] or "", 60),
        )  # fmt: skip
    show_table(table)


@group.command()
def add(
    address: Annotated[str, typer.Argument(metavar="ADDRESS", help="The address.")],
    channel: Channel = "email",
    until: Annotated[
        str | None, typer.Option(metavar="TIME", help="2030-01-31T12:00:00Z, for example; for good if not given.")
    ] = None,
    detail: Annotated[str | None, typer.Option("--reason", help="Why, for the record.")] = None,
    as_json: AsJson = False,
) -> None:
    """Suppress an address: nothing is sent to it any more."""
    ends, actor = parse_time("--until", until), Actor(current_operator())
    with database("suppressions") as connection, connection.transaction():
        row = repository.suppress(connection, channel, address, actor, until=ends, detail=detail)
    until_text = f" until {row['until'].astimezone():%Y-%m-%d %H:%M %Z}" if row["until"] else ""
    print_result(row, f"{row['channel']} {row['address']} is suppressed{until_text}", as_json)


@group.command()
def remove(
    suppression_id: Annotated[int | None, typer.Argument(metavar="[ID]", help="The id, from the list.")] = None,
    address: Annotated[str | None, typer.Option("--address", help="Instead of the id.")] = None,
    channel: Channel = "email",
    as_json: AsJson = False,
) -> None:
    """Remove a suppression: messages are sent to the address again."""
    if (suppression_id is None) == (address is None):
        raise InvalidInput("ID", "give an id, or --address")
    with database("suppressions") as connection, connection.transaction():
        if suppression_id is None:
            found = repository.list_suppressions(connection, repository.SuppressionFilters(channel, address), None, 1)
            if not found:
                raise InvalidInput("--address", f"{address} is not suppressed for {channel}")
            suppression_id = int(found[0]["id"])
        row = repository.remove_suppression(connection, suppression_id, Actor(current_operator()))
    print_result(row, f"{row['channel']} {row['address']} is no longer suppressed", as_json)
