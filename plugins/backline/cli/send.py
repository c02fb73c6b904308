"""The `send` command: one message into the outbox, as an app does it."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from typing import Annotated, Any

import psycopg
import typer
from psycopg.rows import dict_row

from backline.cli.app import app
from backline.cli.console import out, stack
from backline.cli.payload import Fields, Payload, TypeName, parse_payload, prompt_secrets
from backline.db.connect import translate_errors
from backline.db.statements import statement
from backline.encryption import KEYS_VARIABLE, Encryptor
from backline.errors import DatabaseFailure, InvalidInput
from backline.messages import MessageType, registry
from backline.messages.fields import parse_timestamp
from backline.messages.secrets import encrypt_secrets, is_encrypted, parse_reference
from backline.outbox.submission import NewMessage, enqueue_many


@app.command()
def send(
    type_name: TypeName,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="ADDRESS",
            help="The recipient; of several channels a JSON object by channel, or one of them.",
        ),
    ],
    payload: Payload = None,
    fields: Fields = None,
    lane: Annotated[str | None, typer.Option(help="Another lane of the same channel, such as email.bulk.")] = None,
    at: Annotated[str | None, typer.Option(metavar="TIME", help="Not before, as in 2030-01-31T12:00:00Z.")] = None,
    key: Annotated[str | None, typer.Option(help="Idempotency key: the same one is never sent twice.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable, on stdout.")] = False,
) -> None:
    """Send one message; say its id and where to look."""
    kind = registry.get(type_name)
    recipient = kind.check_recipient(to)
    content = prompt_secrets(kind, parse_payload(kind, payload, fields or []))
    _validate(kind, content)
    message = NewMessage(
        type_name, recipient, _encrypt_secrets(kind, content), key, due_at=_parse_time(at),
        expires_at=kind.expiry(content, datetime.now(UTC)), lane=lane,
    )  # fmt: skip
    rows = _enqueue(message)
    if as_json:
        shown = ("id", "type", "recipient", "state", "lane", "due_at", "expires_at")
        told = [{name: row[name] for name in shown} for row in rows]
        typer.echo(json.dumps(told[0] if len(kind.channels) == 1 else told, default=lambda moment: moment.isoformat()))
        return
    for row in rows:
        due = f", due {row['due_at']:%Y-%m-%d %H:%M:%S %Z}" if row["state"] == "scheduled" else ""
        out.print(f"Message {row['id']} to {row['recipient']} is {row['state']} in {row['lane']}{due}", markup=False)
    out.print(f"Look: ./backline inspect {rows[0]['group_id'] or rows[0]['id']}", markup=False)


def _validate(kind: type[MessageType], content: dict[str, Any]) -> None:
    """By the whole model, with stand-ins for secrets that are elsewhere or sealed already."""
    shown = dict(content)
    for name in kind.secret_fields & set(content):
        if isinstance(content[name], dict):
            parse_reference(kind, name, content[name])
        if isinstance(content[name], dict) or is_encrypted(content[name]):
            shown[name] = kind.fake_secret(name)
    kind.parse(shown)


def _encrypt_secrets(kind: type[MessageType], content: dict[str, Any]) -> dict[str, Any]:
    if not kind.secret_fields:
        return content
    keys = os.environ.get(KEYS_VARIABLE) or stack().secrets.backline_fernet_keys
    return encrypt_secrets(kind, content, Encryptor(key.strip() for key in keys.split(",")).encrypt)


def _parse_time(text: str | None) -> datetime | None:
    try:
        return None if text is None else parse_timestamp(text)
    except ValueError as exc:
        raise InvalidInput("--at", str(exc)) from None


def _enqueue(message: NewMessage) -> list[dict[str, Any]]:
    """In one transaction; the rows as they stand then, one a channel."""
    dsn = os.environ.get("BACKLINE_DATABASE_URL") or stack().cluster.dsn("backline")
    try:
        with translate_errors(), psycopg.connect(dsn, row_factory=dict_row) as connection:
            [accepted_id] = enqueue_many(connection, [message])
            taken = connection.execute(statement("outbox", "message_list_enqueued"), {"id": accepted_id}).fetchall()
            return [
                row
                for one in taken
                for row in connection.execute(statement("outbox", "message_status"), {"id": one["id"]}).fetchall()
            ]
    except DatabaseFailure as exc:
        raise DatabaseFailure(f"{exc}; nothing was sent. ./backline up starts the embedded database") from exc
