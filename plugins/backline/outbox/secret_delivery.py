"""Tries of messages with secrets: opened for the one try, and kept out of all that is written down about it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import psycopg
from psycopg.rows import TupleRow

from backline.channels.base import Channel, P, Session
from backline.db.connect import translate_error
from backline.db.statements import statement
from backline.encryption import Encryptor
from backline.errors import BacklineError, FailureClass, InvalidInput, UnknownFailure
from backline.messages import MessageType, registry
from backline.messages.secrets import Reference, is_encrypted, parse_reference
from backline.outbox.delivery import Delivery, describe_exception
from backline.outbox.store import LeasedMessage, Outcome
from backline.settings import RetrySettings

CONNECT_TIMEOUT_SECONDS = 5
REDACTED = "[secret]"


class SecretResolver:
    """Resolves references by the statements of include/sql/identity.sql, over one connection opened at first use."""

    def __init__(self, dsn: Callable[[], str]) -> None:
        self._dsn = dsn
        self._connection: psycopg.Connection[TupleRow] | None = None
        self._lock = threading.Lock()

    def resolve(self, field: str, wanted: Reference) -> str:
        """The secret, or Fernet text of it.

        InvalidInput for the field if there is none; DatabaseFailure if the database is away; Misconfigured if the
        statement does not fit the database.
        """
        with self._lock:
            try:
                row = self._fetch_row(wanted)
            except psycopg.DataError:
                raise InvalidInput(field, f"{wanted} cannot be looked up: its id is of the wrong kind") from None
            except psycopg.Error as exc:
                raise translate_error(exc) from exc
        if row is None or row[0] is None:
            raise InvalidInput(
                field, f"{wanted} gives nothing: there is no such row, or it is used up or has expired; send a new one"
            )
        return str(row[0])

    def close(self) -> None:
        """Close the connection, if there is one."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()

    def _fetch_row(self, wanted: Reference) -> TupleRow | None:
        text = statement("identity", wanted.statement)
        # As text: the statement's own cast makes of it what it needs.
        parameters = {"id": str(wanted.id)}
        kept = self._connection
        try:
            return self._connect().execute(text, parameters).fetchone()
        except psycopg.OperationalError:
            if kept is None or not kept.closed:
                raise
            # It had been closed since the last look: a new one, once.
            return self._connect().execute(text, parameters).fetchone()

    def _connect(self) -> psycopg.Connection[TupleRow]:
        if self._connection is None or self._connection.closed:
            self._connection = psycopg.connect(
                self._dsn(),
                autocommit=True,
                connect_timeout=CONNECT_TIMEOUT_SECONDS,
                application_name="backline secrets",
            )
        return self._connection


class SecretDelivery(Delivery[P]):
    """As Delivery; messages of types with secret fields have them opened before, and hidden from what is said after."""

    def __init__(
        self,
        channel: Channel[P],
        policies: Mapping[FailureClass, RetrySettings],
        encryptor: Callable[[], Encryptor],
        resolver: SecretResolver,
        random: Callable[[], float],
    ) -> None:
        super().__init__(channel, policies, lambda _type, payload: payload, random)
        self._encryptor = encryptor
        self._resolver = resolver

    async def attempt(self, message: LeasedMessage, session: Session[P], *, cancelled: bool = False) -> Outcome:
        """Try once. A secret that is not to be had is a failed try, of class validation."""
        try:
            kind = registry.get(message.type)
        except InvalidInput:  # an unknown type is the channel's to refuse
            return await super().attempt(message, session, cancelled=cancelled)
        if kind.expiry_field or kind.lifetime:
            message = _with_expiry(message, kind)
        if (
            not kind.secret_fields
            or cancelled
            or (message.send_deadline is not None and time.monotonic() >= message.send_deadline)
        ):
            return await super().attempt(message, session, cancelled=cancelled)
        started = time.monotonic()
        try:
            secrets = await self._decrypt_secrets(kind, message.payload)
        except BacklineError as exc:
            return self._failure_outcome(message, exc, started)
        except Exception as exc:  # noqa: BLE001 - as in Delivery: one message's fault must not take the lane down
            return self._failure_outcome(message, UnknownFailure(f"unexpected {describe_exception(exc)}"), started)
        outcome = await super().attempt(replace(message, payload={**message.payload, **secrets}), session)
        return _redact(outcome, secrets.values())

    async def _decrypt_secrets(self, kind: type[MessageType], payload: Mapping[str, Any]) -> dict[str, str]:
        opened: dict[str, str] = {}
        for name in kind.secret_fields:
            value = payload.get(name)
            if isinstance(value, Mapping):
                # In a thread: the lane's other messages go on meanwhile.
                found = await asyncio.to_thread(self._resolver.resolve, name, parse_reference(kind, name, value))
                opened[name] = self._encryptor().decrypt(name, found) if is_encrypted(found) else found
            elif value is not None:  # whatever it is: what no key opens is refused by name
                opened[name] = self._encryptor().decrypt(name, value)
        return opened


def _with_expiry(message: LeasedMessage, kind: type[MessageType]) -> LeasedMessage:
    """The message, no longer of use once its payload is not, whatever its own expiry says."""
    try:
        expiry = kind.expiry(message.payload, message.created_at)
    except ValueError:  # the model refuses it, by name
        return message
    if expiry is None:
        return message
    left = time.monotonic() + (expiry - datetime.now(UTC)).total_seconds()
    return replace(message, send_deadline=left if message.send_deadline is None else min(message.send_deadline, left))


def _redact(outcome: Outcome, secrets: Iterable[str]) -> Outcome:
    """The outcome with no secret in what the far side, or our own checks, had to say."""
    shapes = [shape for secret in secrets for shape in (secret, quote(secret, safe=""))]

    def hidden(text: str | None) -> str | None:
        for shape in shapes:
            text = text and text.replace(shape, REDACTED)
        return text

    return outcome._replace(error=hidden(outcome.error), response=hidden(outcome.response))
