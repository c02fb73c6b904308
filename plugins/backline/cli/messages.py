"""The commands `send` and `inspect`: enqueue a message as an app does, and show what became of it."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from backline.cli import console
from backline.cli.console import AsJson, app, err, one_line, out
from backline.cli.payload import Fields, Payload, TypeName, parse_payload, prompt_secrets
from backline.db.statements import statement
from backline.errors import DatabaseFailure
from backline.messages import registry
from backline.messages.secrets import check_payload, encrypt_secrets
from backline.outbox import queries
from backline.outbox.submission import NewMessage, enqueue_many
from backline.outbox.timeline import TimelineEvent, format_time

MAX_FIELD_LENGTH = 200
"""Characters of each payload field that `inspect` prints; --json has all."""
KEY_SCOPE = "cli"
"""Of `--key`: a person's key must not be one that a job derives."""
SENT_COLUMNS = ("id", "type", "recipient", "state", "lane", "due_at", "expires_at")


@app.command()
def send(
    type_name: TypeName,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="ADDRESS",
            help="The recipient; for several channels a JSON object by channel, or the address of one of them.",
        ),
    ],
    payload: Payload = None,
    fields: Fields = None,
    lane: Annotated[str | None, typer.Option(help="Another lane of the same channel, such as email.bulk.")] = None,
    at: Annotated[str | None, typer.Option(metavar="TIME", help="Not before: 2030-01-31T12:00:00Z.")] = None,
    key: Annotated[str | None, typer.Option(help="Idempotency key: a message with this key is sent once.")] = None,
    as_json: AsJson = False,
) -> None:
    """Enqueue one message and print its id."""
    kind = registry.get(type_name)
    recipient = kind.check_recipient(to)
    content = prompt_secrets(kind, parse_payload(kind, payload, fields or []))
    check_payload(kind, content)
    encrypted = encrypt_secrets(kind, content, console.encryptor().encrypt) if kind.secret_fields else content
    message = NewMessage(
        type_name, recipient, encrypted, key, due_at=console.parse_time("--at", at),
        expires_at=kind.expiry(content, datetime.now(UTC)), lane=lane, key_scope=KEY_SCOPE,
    )  # fmt: skip
    rows = _enqueue(message)
    if as_json:
        shown = [{name: row[name] for name in SENT_COLUMNS} for row in rows]
        console.print_json(shown[0] if len(kind.channels) == 1 else shown, indent=None)
        return
    for row in rows:
        due = f", due {row['due_at']:%Y-%m-%d %H:%M:%S %Z}" if row["state"] == "scheduled" else ""
        out.print(f"Message {row['id']} to {row['recipient']} is {row['state']} in {row['lane']}{due}", markup=False)
    out.print(f"Follow it: ./backline inspect {rows[0]['group_id'] or rows[0]['id']}", markup=False)


@app.command()
def inspect(
    message_id: Annotated[int, typer.Argument(metavar="ID", min=1, help="A message's id, or a group's.")],
    as_json: AsJson = False,
) -> None:
    """Show a message's timeline, and why it was or was not sent."""
    with console.database("inspect") as connection:
        found = queries.get_message(connection, message_id)
        ids = [] if found else [message.id for message in queries.get_group(connection, message_id)]
        group = [queries.get_message(connection, one) for one in ids]
        messages = [found] if found else [message for message in group if message is not None]
    if not messages:
        err.print(f"backline: there is no message {message_id}: it never existed, or it was pruned", markup=False)
        raise typer.Exit(1)
    url = console.installation_variables()["BACKLINE_URL"]
    if as_json:
        details = [_as_dict(message, url) for message in messages]
        console.print_json(details[0] if found else details)
        return
    for message in messages:
        _show(message, url)


def _enqueue(message: NewMessage) -> list[dict[str, Any]]:
    try:
        with console.transaction("send") as connection:
            [accepted_id] = enqueue_many(connection, [message])
            listed = connection.execute(statement("outbox", "message_list_enqueued"), {"id": accepted_id}).fetchall()
            return [
                row
                for one in listed
                for row in connection.execute(statement("outbox", "message_status"), {"id": one["id"]}).fetchall()
            ]
    except DatabaseFailure as exc:
        raise DatabaseFailure(f"{exc}; nothing was sent. ./backline up starts the embedded database") from exc


def _as_dict(details: queries.MessageDetails, url: str) -> dict[str, Any]:
    facts = asdict(details.message)
    del facts["now"], facts["dispatchers"]
    timeline = [{**asdict(event), "log": _log_url(event, url)} for event in details.timeline]
    return {**facts, "payload": dict(details.payload), "why": details.explanation, "timeline": timeline}


def _show(details: queries.MessageDetails, url: str) -> None:
    facts = details.message
    head = f"message {facts.id}  {facts.type} to {facts.recipient} by {facts.lane}: {facts.state}"
    out.print(one_line(head), markup=False)
    out.print(one_line(details.explanation), style="bold", markup=False)
    for event in details.timeline:
        at = format_time(event.at) if event.at else ""
        out.print(one_line(f"{at:24} {event.event:10} {event.text}"), markup=False)
        if log := _log_url(event, url):
            out.print(f"{'':35} {log}", markup=False)
    for name, value in details.payload.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        cut = f"{text[:MAX_FIELD_LENGTH]}… ({len(text):,} characters)" if len(text) > MAX_FIELD_LENGTH else text
        out.print(f"  {one_line(name)}: {cut}".replace("\n", "\n    "), markup=False)


def _log_url(event: TimelineEvent, url: str) -> str | None:
    path = event.attempt.log_path() if event.attempt else None
    return path and f"{url}{path}"
