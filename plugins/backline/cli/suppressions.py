"""The commands `suppressions`: list, add, remove."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from backline.cli import console
from backline.cli.console import AsJson
from backline.errors import InvalidInput
from backline.preferences import repository
from backline.settings import CHANNELS

group = console.add_group("suppressions", "Addresses that nothing is sent to: list, add, remove.")

_HELP = f"One of: {', '.join(CHANNELS)}."
Channel = Annotated[str, typer.Option("--channel", help=_HELP)]
PAGE_SIZE = 500
_minute = partial(console.format_local, pattern="%Y-%m-%d %H:%M")


@group.command("list")
def list_suppressions(
    channel: Annotated[str | None, typer.Option("--channel", help=_HELP)] = None,
    address: Annotated[str | None, typer.Option("--address", help="One address, in any spelling.")] = None,
    reason: Annotated[
        str | None, typer.Option("--reason", help="hard_bounce, complaint, unsubscribed or manual.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=100_000, help="Maximum number.")] = 50,
    as_json: AsJson = False,
) -> None:
    """List active suppressions, newest first."""
    filters = repository.SuppressionFilters(channel, address, reason)
    rows: list[repository.Suppression] = []
    with console.database("suppressions") as connection:
        while len(rows) < limit:
            cursor = rows[-1].id if rows else None
            page = repository.list_suppressions(connection, filters, cursor, min(PAGE_SIZE, limit - len(rows)))
            rows += page
            if len(page) < PAGE_SIZE:
                break
    columns = {
        "id": lambda row: row.id,
        "channel": lambda row: row.channel,
        "address": lambda row: row.address,
        "reason": lambda row: row.reason,
        "source": lambda row: row.source,
        "since": lambda row: _minute(row.since),
        "until": lambda row: _minute(row.until, "for good"),
        "detail": lambda row: console.shorten(row.detail or "", 60),
    }
    console.print_rows(rows, columns, "No suppressions match.", as_json)


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
    ends = console.parse_time("--until", until)
    with console.transaction("suppressions") as connection:
        added = repository.suppress(connection, channel, address, console.actor(), until=ends, detail=detail)
    end = console.format_local(added.until, pattern=" until %Y-%m-%d %H:%M %Z")
    console.print_result(added, f"{added.channel} {added.address} is suppressed{end}", as_json)


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
    with console.transaction("suppressions") as connection:
        if suppression_id is None:
            found = repository.list_suppressions(connection, repository.SuppressionFilters(channel, address), None, 1)
            if not found:
                raise InvalidInput("--address", f"{address} is not suppressed for {channel}")
            suppression_id = found[0].id
        removed = repository.remove_suppression(connection, suppression_id, console.actor())
    console.print_result(removed, f"{removed.channel} {removed.address} is no longer suppressed", as_json)
