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
from backline.db.connect import translate
from backline.db.statements import statement
from backline.errors import BacklineError, FailureClass, InvalidInput, UnknownFailure
from backline.messages import MessageType, registry
from backline.messages.secrets import Reference, is_sealed, reference
from backline.outbox.delivery import Delivery, describe
from backline.outbox.store import Leased, Outcome
from backline.sealing import Sealer
from backline.settings import RetrySettings

CONNECT_SECONDS = 5
HIDDEN = "[secret]"


class SecretLookup:
    """Resolves references by the statements of include/sql/identity.sql, over one connection opened at first use."""

    def __init__(self, dsn: Callable[[], str]) -> None:
        self._dsn = dsn
        self._connection: psycopg.Connection[TupleRow] | None = None
        self._lock = threading.Lock()

    def value(self, field: str, wanted: Reference) -> str:
        """The secret, or Fernet text of it.

        InvalidInput for the field if there is none; DatabaseFailure if the database is away; Misconfigured if the
        statement does not fit the database.
        """
        with self._lock:
            try:
                row = self._row(wanted)
            except psycopg.DataError:
                raise InvalidInput(field, f"{wanted} cannot be looked up: its id is of the wrong kind") from None
            except psycopg.Error as exc:
                raise translate(exc) from exc
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

    def _row(self, wanted: Reference) -> TupleRow | None:
        text = statement("identity", wanted.statement)
        # As text: the statement's own cast makes of it what it needs.
        parameters = {"id": str(wanted.id)}
        kept = self._connection
        try:
            return self._open().execute(text, parameters).fetchone()
        except psycopg.OperationalError:
            if kept is None or not kept.closed:
                raise
            # It had been closed since the last look: a new one, once.
            return self._open().execute(text, parameters).fetchone()

    def _open(self) -> psycopg.Connection[TupleRow]:
        if self._connection is None or self._connection.closed:
            self._connection = psycopg.connect(
                self._dsn(),
                autocommit=True,
                connect_timeout=CONNECT_SECONDS,
                application_name="backline secrets",
            )
        return self._connection


class SecretDelivery(Delivery[P]):
    """As Delivery; messages of types with secret fields have them opened before, and hidden from what is said after."""

    def __init__(
        self,
        channel: Channel[P],
        policies: Mapping[FailureClass, RetrySettings],
        sealer: Callable[[], Sealer],
        lookup: SecretLookup,
        random: Callable[[], float],
    ) -> None:
        super().__init__(channel, policies, lambda _type, payload: payload, random)
        self._sealer = sealer
        self._lookup = lookup

    async def attempt(self, message: Leased, session: Session[P], *, cancelled: bool = False) -> Outcome:
        """Try once. A secret that is not to be had is a failed try, of class validation."""
        try:
            kind = registry.get(message.type)
        except InvalidInput:  # an unknown type is the channel's to refuse
            return await super().attempt(message, session, cancelled=cancelled)
        if kind.expiry_field or kind.lifetime:
            message = _expiring(message, kind)
        if not kind.secret_fields or cancelled or (message.expires is not None and time.monotonic() >= message.expires):
            return await super().attempt(message, session, cancelled=cancelled)
        started = time.monotonic()
        try:
            secrets = await self._opened(kind, message.payload)
        except BacklineError as exc:
            return self._failed(message, exc, started)
        except Exception as exc:  # noqa: BLE001 - as in Delivery: one message's fault must not take the lane down
            return self._failed(message, UnknownFailure(f"unexpected {describe(exc)}"), started)
        outcome = await super().attempt(replace(message, payload={**message.payload, **secrets}), session)
        return _without(outcome, secrets.values())

    async def _opened(self, kind: type[MessageType], payload: Mapping[str, Any]) -> dict[str, str]:
        opened: dict[str, str] = {}
        for name in kind.secret_fields:
            value = payload.get(name)
            if isinstance(value, Mapping):
                # In a thread: the lane's other messages go on meanwhile.
                found = await asyncio.to_thread(self._lookup.value, name, reference(kind, name, value))
                opened[name] = self._sealer().open(name, found) if is_sealed(found) else found
            elif value is not None:  # whatever it is: what no key opens is refused by name
                opened[name] = self._sealer().open(name, value)
        return opened


def _expiring(message: Leased, kind: type[MessageType]) -> Leased:
    """The message, no longer of use once its payload is not, whatever its own expiry says."""
    try:
        expiry = kind.expiry(message.payload, message.created_at)
    except ValueError:  # the model refuses it, by name
        return message
    if expiry is None:
        return message
    left = time.monotonic() + (expiry - datetime.now(UTC)).total_seconds()
    return replace(message, expires=left if message.expires is None else min(message.expires, left))


def _without(outcome: Outcome, secrets: Iterable[str]) -> Outcome:
    """The outcome with no secret in what the far side, or our own checks, had to say."""
    shapes = [shape for secret in secrets for shape in (secret, quote(secret, safe=""))]

    def hidden(text: str | None) -> str | None:
        for shape in shapes:
            text = text and text.replace(shape, HIDDEN)
        return text

    return outcome._replace(error=hidden(outcome.error), response=hidden(outcome.response))
