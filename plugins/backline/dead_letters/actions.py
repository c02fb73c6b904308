"""Dealing with dead letters: replay, as it was or edited; discard. One at a time or in bulk, each exactly once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from backline.db.statements import statement
from backline.dead_letters.runs import RunsClient
from backline.dead_letters.store import DeadLetterStore, Filter, Row
from backline.errors import BacklineError, InvalidInput
from backline.messages import registry
from backline.outbox.submission import NewMessage, enqueue_many

BULK_LIMIT = 10_000
MAX_REASON_LENGTH = 500


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """What became of a letter."""

    id: int
    reference: str
    """What it was replayed as: "run DAG/RUN", "message ID" or "file FILE"."""


@dataclass(slots=True)
class BulkReport:
    """What a bulk action did, or (dry run) would do."""

    dry_run: bool
    matched: int = 0
    done: list[int] = field(default_factory=list)
    failed: dict[int, str] = field(default_factory=dict)


def replay(
    letters: DeadLetterStore,
    runs: RunsClient,
    letter_id: int,
    *,
    by: str,
    edited: Mapping[str, Any] | None = None,
    reason: str | None = None,
) -> ReplayResult:
    """Try again what a letter is about, and close the letter.

    A job starts as a new run with the same conf, or with `edited` in its place; a message is revived under its own id,
    so that the far side can tell, or with `edited` as its payload goes out as a new one; a DAG file is read again.
    InvalidInput if the letter is not open or `edited` is not valid; nothing has happened then.
    """
    with letters.connection.transaction():
        _require_open(letters, letter_id)
        letter = letters.get(letter_id)
        if letter["kind"] == "job":
            return _replay_job(letters, runs, letter, edited, by, reason)
        if letter["kind"] == "message":
            return _replay_message(letters, letter, edited, by, reason)
        if edited is not None:
            raise InvalidInput("edited", "a DAG file is mended where it is, then replayed as it is")
        runs.reparse(letter["bundle"], letter["name"])
        reference = f"file {letter['name']}"
        letters.close(letter_id, "replayed", by=by, reason=reason, replay_ref=reference)
        return ReplayResult(letter_id, reference)


def discard(letters: DeadLetterStore, letter_id: int, *, by: str, reason: str) -> None:
    """Give up on a letter. InvalidInput if it is not open or no reason is given."""
    if not reason.strip() or len(reason) > MAX_REASON_LENGTH:
        raise InvalidInput("reason", f"say why it can be given up, in 1 to {MAX_REASON_LENGTH} characters")
    with letters.connection.transaction():
        _require_open(letters, letter_id)
        letters.close(letter_id, "discarded", by=by, reason=reason.strip(), replay_ref=None)


def run_bulk(
    letters: DeadLetterStore, wanted: Filter, action: Callable[[int], object], *, dry_run: bool, limit: int = BULK_LIMIT
) -> BulkReport:
    """Do `act` to every open letter of a filter, oldest first; one that fails harms no other. A dry run only counts."""
    if wanted.state not in (None, "open"):
        raise InvalidInput("state", f"only open letters can be replayed or discarded, not {wanted.state} ones")
    report = BulkReport(dry_run)
    found = list(letters.iterate(Filter("open", wanted.kind, wanted.name, wanted.failure_class, wanted.since), limit))
    report.matched = len(found)
    if dry_run:
        report.done = [row["id"] for row in reversed(found)]
        return report
    closed_with_another: set[tuple[str, str]] = set()
    for row in reversed(found):
        run = (row["name"], row["run_id"] or "")
        if row["kind"] == "job" and run in closed_with_another:
            report.done.append(row["id"])
            continue
        try:
            if isinstance(action(row["id"]), ReplayResult) and row["kind"] == "job":
                closed_with_another.add(run)
            report.done.append(row["id"])
        except BacklineError as exc:
            report.failed[row["id"]] = str(exc)
    return report


def _require_open(letters: DeadLetterStore, letter_id: int) -> None:
    state = letters.lock(letter_id)
    if state != "open":
        raise InvalidInput("id", f"dead letter {letter_id} is {state}; only an open one can be replayed or discarded")


def _replay_job(
    letters: DeadLetterStore,
    runs: RunsClient,
    letter: Row,
    edited: Mapping[str, Any] | None,
    by: str,
    reason: str | None,
) -> ReplayResult:
    dag_id, run_id = letter["name"], letter["run_id"]
    if edited is not None:
        known = runs.dag_params(dag_id)
        if unknown := sorted(set(edited) - set(known)):
            raise InvalidInput(
                f"edited.{unknown[0]}", f"{dag_id} has no such parameter; it has: {', '.join(known) or 'none'}"
            )
    # The same letter, replayed twice at once, would be the same run: the second is refused or finds it there.
    new_run = f"replay-{letter['id']}-{letter['tries']}-{letter['failed_at']:%Y%m%dT%H%M%S}"
    note = f"Replay of dead letter {letter['id']}: {dag_id}/{run_id}, by {by}" + (f" ({reason})" if reason else "")
    runs.start_run(dag_id, new_run, letter["conf"] or {} if edited is None else edited, note)
    reference = f"run {dag_id}/{new_run}"
    letters.close_run(dag_id, run_id, by=by, reason=reason, replay_ref=reference)
    return ReplayResult(letter["id"], reference)


def _replay_message(
    letters: DeadLetterStore, letter: Row, edited: Mapping[str, Any] | None, by: str, reason: str | None
) -> ReplayResult:
    message_id = letter["message_id"]
    if letter["message_state"] is None:
        raise InvalidInput("id", f"message {message_id} is no longer there; send it anew")
    if edited is None:
        revived = letters.connection.execute(statement("outbox", "message_retry"), {"id": message_id}).fetchall()
        if not revived:
            raise InvalidInput(
                "id", f"message {message_id} cannot be tried again as it is: it is not dead any more, it has expired, "
                "or its secret fields are erased; replay it edited",
            )  # fmt: skip
        letters.connection.execute(
            statement("dead_letters", "letter_set_closed_by"), {"id": letter["id"], "by": by, "reason": reason}
        )
        return ReplayResult(letter["id"], f"message {message_id}")
    kind = registry.get(letter["name"])
    kind.parse(edited)
    several = len(kind.channels) > 1
    message = NewMessage(
        letter["name"], {letter["channel"]: letter["recipient"]} if several else letter["recipient"], edited,
        priority=letter["priority"], lane=None if several else letter["lane"], request_id=letter["request_id"],
        replay_of=message_id,
    )  # fmt: skip
    [new_id] = enqueue_many(letters.connection, [message])
    reference = f"{'group' if several else 'message'} {new_id}"
    letters.close(letter["id"], "replayed", by=by, reason=reason, replay_ref=reference)
    return ReplayResult(letter["id"], reference)
