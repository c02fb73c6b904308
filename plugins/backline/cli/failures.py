"""The `failures` command."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from rich.table import Table

from backline.cli.app import app
from backline.cli.console import add_row, installation_variables, out, shorten, show_table
from backline.dead_letters.export import to_json_row
from backline.dead_letters.store import DeadLetterStore


@app.command()
def failures(
    hours: Annotated[float, typer.Option("--hours", min=0.01, help="How far back.")] = 24.0,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="Groups at most.")] = 30,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable, on stdout.")] = False,
) -> None:
    """Show what failed for good, grouped by what, where and class, the most frequent first."""
    since = datetime.now(UTC) - timedelta(hours=hours)
    with DeadLetterStore.open(installation_variables()["BACKLINE_DATABASE_URL"]) as letters:
        groups = letters.failure_groups(since, limit)
    if as_json:
        typer.echo(json.dumps([to_json_row(group) for group in groups], indent=2))
        return
    if not groups:
        out.print(f"Nothing failed for good in the last {hours:g} hours.", markup=False)
        return
    table = Table("failures", "open", "what", "class", "last", "why, the last time", box=None)
    for group in groups:
        what = group["name"] + (f".{group['task_id']}" if group["task_id"] else "")
        add_row(table, str(group["failures"]), str(group["open"]), f"{group['kind']} {what}", group["class"],
            f"{group['last_at'].astimezone():%Y-%m-%d %H:%M:%S}", shorten(group["last_cause"]),
        )  # fmt: skip
    show_table(table)
    out.print("One by one: ./backline dead-letters list", style="dim")
