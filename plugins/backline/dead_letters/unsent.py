"""Enqueues messages whose failure must not undo what they are about, such as the receipt of a captured payment."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime

import psycopg

from backline.db.connect import Session
from backline.dead_letters.failures import NOT_MAPPED, REPORTED, WHOLE_RUN, Failure, classify, format_cause
from backline.dead_letters.store import DeadLetterStore
from backline.errors import BacklineError, RetryableError
from backline.messages import registry
from backline.messages.fitting import fit
from backline.messages.run_conf import DAG_PREFIX
from backline.outbox.submission import enqueue

log = logging.getLogger(__name__)


def enqueue_or_record(
    database: Session,
    type_name: str,
    recipient: str | Mapping[str, str],
    payload: Mapping[str, object],
    *,
    key: str,
    due_at: datetime | None = None,
) -> int:
    """Enqueue one message in a savepoint of the caller's transaction, its texts fitted to its fields.

    What cannot be enqueued becomes a dead letter in the same transaction: of the DAG `send_<type>`, with `key` as its run, so
    that a replay sends the message and `--edited` corrects it. If one channel's address is refused, the others are still used.
    Returns the number of dead letters. RetryableError if the database asks to repeat the transaction or is not available.
    """
    fitted = fit(registry.get(type_name), payload)
    error = _enqueue(database, type_name, recipient, fitted, key, due_at)
    if error is None:
        return 0
    if isinstance(recipient, str) or len(recipient) == 1:
        _record(database, type_name, recipient, fitted, key, error)
        return 1
    return sum(
        enqueue_or_record(database, type_name, {channel: address}, fitted, key=f"{key} by {channel}", due_at=due_at)
        for channel, address in recipient.items()
    )


def _enqueue(
    database: Session,
    type_name: str,
    recipient: str | Mapping[str, str],
    payload: Mapping[str, object],
    key: str,
    due_at: datetime | None,
) -> BacklineError | None:
    """The error, with nothing changed, if the message cannot be enqueued."""
    try:
        with database.transaction():
            enqueue(database, type_name, recipient, payload, key=key, due_at=due_at)
    except RetryableError:
        raise
    except BacklineError as exc:
        return exc
    return None


def _record(
    database: Session,
    type_name: str,
    recipient: str | Mapping[str, str],
    payload: Mapping[str, object],
    key: str,
    error: BacklineError,
) -> None:
    log.warning("message %s (%s) could not be enqueued: %s", key, type_name, format_cause(error))
    conf = {"to": recipient, **payload}
    failure = Failure(
        f"{DAG_PREFIX}{type_name}", key, WHOLE_RUN, NOT_MAPPED, classify(error), format_cause(error), REPORTED, 1, conf,
        None, datetime.now(UTC),
    )  # fmt: skip
    try:
        with database.transaction():
            DeadLetterStore(database).record(failure)
    except psycopg.Error:
        log.exception("message %s (%s): its dead letter could not be stored", key, type_name)
