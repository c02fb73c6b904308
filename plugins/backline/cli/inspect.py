"""The `inspect` command: one message's story in the terminal."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

import psycopg
import typer
from psycopg.rows import dict_row

from backline.cli.app import app
from backline.cli.console import err, installation_variables, out
from backline.db.connect import translate_errors
from backline.outbox import queries
from backline.outbox.timeline import TimelineEvent, format_time

MAX_FIELD_LENGTH = 200
"""Of each payload field, in the terminal; --json has all."""


@app.command()
def inspect(
    message_id: Annotated[int, typer.Argument(metavar="ID", min=1, help="A message's id, or a group's.")],
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable, on stdout.")] = False,
) -> None:
    """Show a message's timeline, and why it was or was not sent."""
    known = installation_variables()
    with translate_errors(), psycopg.connect(known["BACKLINE_DATABASE_URL"], row_factory=dict_row) as connection:
        ids = [message_id]
        if (found := queries.get_message(connection, message_id)) is None:
            ids = [int(row["id"]) for row in queries.get_group(connection, message_id)]
        stories = [story for one in ids if (story := found or queries.get_message(connection, one)) is not None]
    if not stories:
        err.print(f"backline: there is no message {message_id}: it never was, or it was pruned", markup=False)
        raise typer.Exit(1)
    url = known["BACKLINE_URL"]
    if as_json:
        answers = [_as_dict(story, url) for story in stories]
        typer.echo(json.dumps(answers[0] if found else answers, indent=2, default=_iso))
        return
    for story in stories:
        _show(story, url)


def _as_dict(story: queries.MessageDetails, url: str) -> dict[str, Any]:
    facts = asdict(story.message)
    del facts["now"], facts["dispatchers"]
    timeline = [{**asdict(event), "log": _log_url(event, url)} for event in story.timeline]
    return {**facts, "payload": dict(story.payload), "why": story.explanation, "timeline": timeline}


def _show(story: queries.MessageDetails, url: str) -> None:
    facts = story.message
    out.print(f"message {facts.id}  {facts.type} to {facts.recipient} by {facts.lane}: {facts.state}", markup=False)
    out.print(story.explanation, style="bold", markup=False)
    for event in story.timeline:
        at = format_time(event.at) if event.at else ""
        out.print(f"{at:24} {event.event:10} {event.text}", markup=False)
        if log := _log_url(event, url):
            out.print(f"{'':35} {log}", markup=False)
    for name, value in story.payload.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        cut = f"{text[:MAX_FIELD_LENGTH]}… ({len(text):,} characters)" if len(text) > MAX_FIELD_LENGTH else text
        out.print(f"  {name}: {cut}", markup=False)


def _log_url(event: TimelineEvent, url: str) -> str | None:
    path = event.attempt.log_path() if event.attempt else None
    return path and f"{url}{path}"


def _iso(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
