"""One try of one message: prepare it, hand it over, and say how it ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, Generic

from backline.channels.base import Channel, Message, P, Session
from backline.errors import BacklineError, FailureClass, RetryableError, UnknownFailure
from backline.outbox.retry import retry_delay
from backline.outbox.store import LeasedMessage, Outcome
from backline.settings import RetrySettings

DecryptPayload = Callable[[str, Mapping[str, Any]], Mapping[str, Any]]
"""Turns a type's name and its stored payload into the payload in the clear."""


class Delivery(Generic[P]):
    """Tries messages over one channel. Knows no database: what it returns is for the outbox to write down."""

    def __init__(
        self,
        channel: Channel[P],
        policies: Mapping[FailureClass, RetrySettings],
        decrypt_payload: DecryptPayload,
        random: Callable[[], float],
    ) -> None:
        self._channel = channel
        self._policies = policies
        self._decrypt_payload = decrypt_payload
        self._random = random

    async def attempt(self, message: LeasedMessage, session: Session[P], *, cancelled: bool = False) -> Outcome:
        """Try once. Every failure becomes an outcome; only cancellation of the caller passes through."""
        started = time.monotonic()
        if cancelled:
            return _not_attempted(message, "cancelled", started, "cancelled before it was sent")
        if message.send_deadline is not None and started >= message.send_deadline:
            return _not_attempted(message, "expired", started, "expired before it could be sent")
        try:
            prepared = self._channel.prepare(
                Message(
                    id=message.id,
                    type=message.type,
                    recipient=message.recipient,
                    payload=self._decrypt_payload(message.type, message.payload),
                    created_at=message.created_at,
                    attempt=message.attempt + 1,
                )
            )
            receipt = await session.send(prepared)
        except BacklineError as exc:
            return self._failure_outcome(message, exc, started)
        except Exception as exc:  # noqa: BLE001 - one message's fault must not take the lane down
            # A fault of ours. Its text could quote the payload, so only its kind and place are kept.
            return self._failure_outcome(message, UnknownFailure(f"unexpected {describe_exception(exc)}"), started)
        refused = "; ".join(f"{address} was refused: {answer}" for address, answer in receipt.refused_recipients)
        return Outcome(
            message_id=message.id,
            token=message.token,
            state="sent",
            started=started,
            ended=time.monotonic(),
            error=refused or None,
            provider_id=receipt.provider_id,
            code=receipt.code,
            response=receipt.response,
        )

    def _failure_outcome(self, message: LeasedMessage, exc: BacklineError, started: float) -> Outcome:
        delay = retry_delay(
            self._policies,
            exc.failure_class,
            message.attempt + 1,
            message.max_attempts,
            exc.retry_after if isinstance(exc, RetryableError) else None,
            self._random,
        )
        return Outcome(
            message_id=message.id,
            token=message.token,
            state="dead" if delay is None else "scheduled",
            started=started,
            ended=time.monotonic(),
            delay=delay or 0.0,
            error_class=exc.failure_class.value,
            error=str(exc)[:2000],
            code=exc.code,
            response=exc.response,
        )


def describe_exception(exc: BaseException) -> str:
    """What and where, without the exception's own text."""
    frame = exc.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    where = f" at {frame.tb_frame.f_globals.get('__name__', '?')}:{frame.tb_lineno}" if frame else ""
    return f"{type(exc).__name__}{where}"


def _not_attempted(message: LeasedMessage, state: str, now: float, why: str) -> Outcome:
    return Outcome(message_id=message.id, token=message.token, state=state, started=now, ended=now, error=why)
