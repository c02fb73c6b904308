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
from backline.cli.console import err, out, stack
from backline.db.connect import translated
from backline.outbox import history
from backline.outbox.story import Event, moment

SHOWN_CHARACTERS = 200
"""Of each payload field, in the terminal; --json has all."""


@app.command()
def inspect(
    message_id: Annotated[int, typer.Argument(metavar="ID", min=1, help="A message's id, or a group's.")],
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable, on stdout.")] = False,
) -> None:
    """Show a message's timeline, and why it was or was not sent."""
    current = stack()
    with translated(), psycopg.connect(current.cluster.dsn("backline"), row_factory=dict_row) as connection:
        ids = [message_id]
        if (found := history.find(connection, message_id)) is None:
            ids = [int(row["id"]) for row in history.group(connection, message_id)]
        stories = [story for one in ids if (story := found or history.find(connection, one)) is not None]
    if not stories:
        err.print(f"backline: there is no message {message_id}: it never was, or it was pruned", markup=False)
        raise typer.Exit(1)
    url = f"http://localhost:{current.paths.port}"
    if as_json:
        answers = [_answer(story, url) for story in stories]
        typer.echo(json.dumps(answers[0] if found else answers, indent=2, default=_iso))
        return
    for story in stories:
        _show(story, url)


def _answer(story: history.History, url: str) -> dict[str, Any]:
    facts = asdict(story.facts)
    del facts["now"], facts["dispatchers"]
    timeline = [{**asdict(event), "log": _log(event, url)} for event in story.timeline]
    return {**facts, "payload": dict(story.payload), "why": story.why, "timeline": timeline}


def _show(story: history.History, url: str) -> None:
    facts = story.facts
    out.print(f"message {facts.id}  {facts.type} to {facts.recipient} by {facts.lane}: {facts.state}", markup=False)
    out.print(story.why, style="bold", markup=False)
    for event in story.timeline:
        at = moment(event.at) if event.at else ""
        out.print(f"{at:24} {event.event:10} {event.text}", markup=False)
        if log := _log(event, url):
            out.print(f"{'':35} {log}", markup=False)
    for name, value in story.payload.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        cut = f"{text[:SHOWN_CHARACTERS]}… ({len(text):,} characters)" if len(text) > SHOWN_CHARACTERS else text
        out.print(f"  {name}: {cut}", markup=False)


def _log(event: Event, url: str) -> str | None:
    path = event.tried.log_path() if event.tried else None
    return path and f"{url}{path}"


def _iso(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)
