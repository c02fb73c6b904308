"""One attempt to deliver a message over its channel, and when to try again.

`Delivery` turns every failure into an `Outcome` for the outbox. `SecretResolver` decrypts or looks up secret fields for the
attempt. `retry_delay` is the retry policy.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from threading import Thread
from typing import Generic, TypeVar
from urllib.parse import quote

import psycopg
from psycopg.conninfo import make_conninfo
from pydantic_core import to_json

from backline.channels.base import Channel, Message, P, Session, SessionBusy
from backline.channels.registry import definition
from backline.db.connect import Database, to_storable
from backline.db.statements import statement
from backline.encryption import Encryptor
from backline.errors import BacklineError, FailureClass, InvalidInput, Misconfigured, RetryableError, UnknownFailure
from backline.messages import registry
from backline.messages.base import MessageType
from backline.messages.secrets import Reference, is_encrypted, parse_reference
from backline.outbox.store import LeasedMessage, Outcome
from backline.settings import RetrySettings

T = TypeVar("T")

CONNECT_TIMEOUT_SECONDS = 5
RECONNECT_TIMEOUT_SECONDS = 0.1
"""Enough for one more attempt when the server has closed the idle connection of the secrets' lookups."""
REDACTED = "[secret]"
MIN_SECRET_LENGTH = 4
"""A shorter text is no secret, and could be part of any word."""
INLINE_PAYLOAD_LENGTH = 4_096
"""Characters of a payload; a message with a larger one is built in a thread, which costs a tenth of a millisecond."""
PREPARE_TIMEOUT_SECONDS = 20.0
"""A message that takes longer to build is dead. A thread cannot be killed: one that works on is left to itself, and ends, as what
it parses is bounded (by the rules of each type, and `MAX_PARSED_HTML` and `MAX_PARSED_TAGS` of HTML)."""
BUILDING_THREADS = 2


def retry_delay(
    policies: Mapping[FailureClass, RetrySettings],
    failure_class: FailureClass,
    attempt: int,
    max_attempts: int,
    retry_after: float | None,
    random: Callable[[], float],
) -> float | None:
    """Seconds until the next attempt, or None when there is none.

    `attempt` is the one that just failed, from 1. A class without a policy is permanent. `retry_after` is the delay that the
    provider asked for, in seconds: it is limited to the class's maximum, jitter never shortens it, and it is never shorter
    than ours. `random` returns numbers in [0, 1).
    """
    policy = policies.get(failure_class)
    if policy is None or attempt >= max_attempts:
        return None
    chance = random()
    own = min(policy.backoff_seconds(attempt) * (1 + policy.jitter * (2 * chance - 1)), policy.max_delay_seconds)
    if retry_after is None:
        return own
    return max(own, min(retry_after, policy.max_delay_seconds) * (1 + policy.jitter * chance))


def upgraded(message: LeasedMessage) -> LeasedMessage:
    """The message with its payload upgraded to the type's current version, if it is of an older one."""
    kind = registry.find(message.type)
    if kind is None or message.type_version >= kind.version:
        return message
    payload = kind.to_current(message.payload, message.type_version)
    return replace(message, payload=payload, payload_json=to_json(payload).decode(), type_version=kind.version)


@dataclass(frozen=True, slots=True)
class Delivery(Generic[P]):
    """Delivers messages over one channel. It has no access to the outbox: the caller stores the outcomes that it returns."""

    channel: Channel[P]
    policies: Mapping[FailureClass, RetrySettings]
    random: Callable[[], float]
    resolver: SecretResolver | None = None
    """Provides the values of secret fields; without it, a type that has some is Misconfigured."""
    building: asyncio.Semaphore = field(default_factory=partial(asyncio.Semaphore, BUILDING_THREADS))
    """Large messages are built a few at a time: the time limit of each counts its own work, not that of its neighbours."""

    async def attempt(self, message: LeasedMessage, session: Session[P], *, cancelled: bool = False) -> Outcome:
        """Attempt delivery once. Every failure becomes an outcome; only SessionBusy and the caller's cancellation are raised.

        Secret values do not appear in the outcome, even if the provider repeats them.
        """
        started = time.monotonic()
        if cancelled:
            return _not_attempted(message, "cancelled", started, "cancelled before it was sent")
        secrets: dict[str, str] = {}
        try:
            _require_no_problem(message)
            if kind := registry.find(message.type):  # the channel refuses an unknown type
                try:
                    message = _with_expiry(upgraded(message), kind)
                except BacklineError:
                    raise
                except Exception as exc:
                    raise _build_error(exc) from exc
            if message.send_deadline is not None and started >= message.send_deadline:
                return _not_attempted(message, "expired", started, "expired before it could be sent")
            if kind and kind.secret_fields:
                secrets = await self._secret_values(kind, message)
            payload = {**message.payload, **secrets} if secrets else message.payload
            content = Message(
                message.id, message.type, message.recipient, payload, message.created_at,
                message.attempt + 1, None if secrets else message.payload_json,
            )  # fmt: skip
            receipt = await session.send(await self._prepare_bounded(content, message))
        except SessionBusy:
            raise
        except Exception as exc:  # noqa: BLE001 - a fault in one message must not stop the lane
            outcome = self._failure_outcome(message, exc, started)
        else:
            refused = "; ".join(f"{address} was refused: {answer}" for address, answer in receipt.refused_recipients)
            outcome = Outcome(
                message.id, message.token, "sent", started, time.monotonic(), error=refused or None,
                provider_id=receipt.provider_id, code=receipt.code, response=receipt.response,
            )  # fmt: skip
        outcome = _cleaned(outcome)
        return _redact(outcome, secrets.values()) if secrets else outcome

    async def _prepare_bounded(self, content: Message, message: LeasedMessage) -> P:
        """Build the message, a large one in a thread, so that heartbeats and other messages do not wait for it."""
        if len(message.payload_json) <= INLINE_PAYLOAD_LENGTH:
            return self._prepare(content)
        async with self.building:
            try:
                return await asyncio.wait_for(run_in_thread(partial(self._prepare, content)), PREPARE_TIMEOUT_SECONDS)
            except TimeoutError:
                problem = f"the message takes more than {PREPARE_TIMEOUT_SECONDS:.0f} s to build; make it smaller"
                raise InvalidInput("payload", problem) from None

    def _prepare(self, content: Message) -> P:
        try:
            return self.channel.prepare(content)
        except BacklineError:
            raise
        except Exception as exc:
            raise _build_error(exc) from exc

    async def _secret_values(self, kind: type[MessageType], message: LeasedMessage) -> dict[str, str]:
        if self.resolver is None:
            raise Misconfigured(f"{kind.type_name} has secret fields, and this sender cannot decrypt them")
        return await self.resolver.values(kind, message.payload, self.channel.name, message.recipient)

    def _failure_outcome(self, message: LeasedMessage, exc: Exception, started: float) -> Outcome:
        if not isinstance(exc, BacklineError):
            # A bug. The exception's text could quote the payload, so only its type and place are stored.
            exc = UnknownFailure(f"unexpected {describe_exception(exc)}")
        retry_after = exc.retry_after if isinstance(exc, RetryableError) else None
        delay = retry_delay(
            self.policies, exc.failure_class, message.attempt + 1, message.max_attempts, retry_after, self.random
        )
        return Outcome(
            message.id, message.token, "dead" if delay is None else "scheduled", started, time.monotonic(), delay or 0.0,
            error_class=exc.failure_class.value, error=str(exc)[:2000], code=exc.code, response=exc.response,
        )  # fmt: skip


async def run_in_thread(function: Callable[[], T]) -> T:
    """What the function returns, called in a thread of its own.

    Not `asyncio.to_thread`, whose few threads a slow call would keep from its neighbours, and which delays the process's end.
    """
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(lambda: None if done.done() else result())

    def work() -> None:
        try:
            value = function()
        except BaseException as exc:  # noqa: BLE001 - raised in the waiting task
            settle(partial(done.set_exception, exc))
        else:
            settle(partial(done.set_result, value))

    Thread(target=work, name="build", daemon=True).start()
    return await done


def _build_error(exc: Exception) -> InvalidInput:
    """InvalidInput in place of an unexpected error: its content, or a bug that it meets, so another attempt would end the same."""
    return InvalidInput("payload", f"the message cannot be built: unexpected {describe_exception(exc)}")


def describe_exception(exc: BaseException) -> str:
    """The exception's type and place, without its own text."""
    frame = exc.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    where = f" at {frame.tb_frame.f_globals.get('__name__', '?')}:{frame.tb_lineno}" if frame else ""
    return f"{type(exc).__name__}{where}"


def _require_no_problem(message: LeasedMessage) -> None:
    if message.problem is not None:
        raise message.problem


def _not_attempted(message: LeasedMessage, state: str, now: float, why: str) -> Outcome:
    return Outcome(message.id, message.token, state, now, now, error=why)


@dataclass(frozen=True, slots=True)
class _OwnedSecret:
    """The row of a reference's statement."""

    value: object
    recipient: object


class SecretResolver:
    """Decrypts secret fields, and looks references up with include/sql/identity.sql, over one connection."""

    def __init__(self, dsn: Callable[[], str], encryptor: Callable[[], Encryptor]) -> None:
        self._encryptor = encryptor
        self._database = Database(
            lambda: make_conninfo(dsn(), connect_timeout=CONNECT_TIMEOUT_SECONDS),
            name="secrets",
            retry_timeout=RECONNECT_TIMEOUT_SECONDS,
        )

    async def values(
        self, kind: type[MessageType], payload: Mapping[str, object], channel: str, recipient: str
    ) -> dict[str, str]:
        """The plaintext of a payload's secret fields.

        InvalidInput for a field whose secret cannot be obtained, or belongs to somebody else than the recipient.
        """
        secrets: dict[str, str] = {}
        for name in kind.secret_fields:
            value = payload.get(name)
            if isinstance(value, Mapping):
                reference = parse_reference(kind, name, value)
                found, owners = await self._look_up(name, reference)
                if not _is_among(owners, channel, recipient):
                    problem = f"{reference} belongs to somebody else than the message's recipient; send it to its owner"
                    raise InvalidInput(name, problem)
                secrets[name] = self._encryptor().decrypt(name, found) if is_encrypted(found) else found
            elif value is not None:  # anything that no key decrypts is refused by name
                secrets[name] = self._encryptor().decrypt(name, str(value))
        return secrets

    async def _look_up(self, field: str, reference: Reference) -> tuple[str, list[str]]:
        """The secret, in plaintext or as Fernet text, and its owner's addresses.

        InvalidInput for the field if there is none, Misconfigured for a wrong statement, DatabaseFailure.
        """
        try:
            # The id is passed as text: the statement casts it.
            rows = await self._database.fetch(
                statement("identity", reference.statement), _OwnedSecret, {"id": str(reference.id)}
            )
        except Misconfigured as exc:
            if isinstance(exc.__cause__, psycopg.DataError):
                raise InvalidInput(field, f"{reference} cannot be looked up: its id is of the wrong type") from None
            raise Misconfigured(f"{reference.statement} of identity.sql: {exc}", code=exc.code) from exc
        found = rows[0] if rows else None
        if found is None or found.value is None:
            raise InvalidInput(
                field,
                f"{reference} gives nothing: there is no such row, or it is used up or has expired; send a new one",
            )
        owners = found.recipient if isinstance(found.recipient, list) else [found.recipient]
        return str(found.value), [str(owner) for owner in owners if owner is not None]

    async def close(self) -> None:
        """Close the connection, if there is one."""
        await self._database.close()


def _is_among(owners: Iterable[str], channel: str, recipient: str) -> bool:
    """Whether the message's recipient, as its channel reads it, is one of the addresses."""
    known = definition(channel)
    key = known.parse_address_key(known.parse_recipient(recipient, "to"), "to")
    return key in {known.address_key(owner) for owner in owners}


def _with_expiry(message: LeasedMessage, kind: type[MessageType]) -> LeasedMessage:
    """The message with a send deadline no later than its payload's expiry."""
    if not kind.expiry_field and not kind.lifetime:
        return message
    try:
        expiry = kind.expiry(message.payload, message.created_at)
    except (ValueError, OverflowError):  # the model refuses it, by name
        return message
    if expiry is None:
        return message
    deadline = time.monotonic() + (expiry - datetime.now(UTC)).total_seconds()
    if message.send_deadline is not None:
        deadline = min(deadline, message.send_deadline)
    return replace(message, send_deadline=deadline)


def _cleaned(outcome: Outcome) -> Outcome:
    """The outcome without what a receiver may say, but neither PostgreSQL nor a log can take."""
    texts = outcome.error, outcome.provider_id, outcome.code, outcome.response
    if "".join(filter(None, texts)).isprintable():
        return outcome
    error, provider_id, code, response = [text and to_storable(text) for text in texts]
    return outcome._replace(error=error, provider_id=provider_id, code=code, response=response)


def _redact(outcome: Outcome, secrets: Iterable[str]) -> Outcome:
    """The outcome without any secret in the texts of the provider or of our own checks."""
    hidden = [secret for secret in secrets if len(secret) >= MIN_SECRET_LENGTH]
    shapes = [shape for secret in hidden for shape in (secret, quote(secret, safe=""))]

    def redacted(text: str | None) -> str | None:
        for shape in shapes:
            text = text and text.replace(shape, REDACTED)
        return text

    return outcome._replace(error=redacted(outcome.error), response=redacted(outcome.response))
