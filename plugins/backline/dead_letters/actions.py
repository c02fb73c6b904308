"""Replaying and discarding dead letters, one at a time or in bulk, each exactly once."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from backline.airflow_api import check_conf
from backline.db.statements import statement
from backline.dead_letters.runs import RunsClient
from backline.dead_letters.store import DeadLetterStore, Filter, Row
from backline.errors import BacklineError, InvalidInput
from backline.messages import registry

BULK_LIMIT = 10_000
MAX_REASON_LENGTH = 500


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """A replayed dead letter."""

    id: int
    reference: str
    """What it was replayed as: "run DAG/RUN", "message ID", "group ID" or "file FILE"."""


@dataclass(slots=True)
class BulkReport:
    """What a bulk action did, or (dry run) would do."""

    dry_run: bool
    matched: int = 0
    done: list[int] = field(default_factory=list)
    failed: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Replay:
    """One replay: of which dead letter, and as whom."""

    store: DeadLetterStore
    runs: RunsClient
    letter: Row
    by: str
    edited: Mapping[str, Any] | None
    reason: str | None


def replay(
    store: DeadLetterStore,
    runs: RunsClient,
    letter_id: int,
    *,
    by: str,
    edited: Mapping[str, Any] | None = None,
    reason: str | None = None,
) -> ReplayResult:
    """Run again what a dead letter is about, and close the dead letter.

    A job starts as a new run with the same conf, or with `edited` as its conf. A message is retried under its own id,
    so that the receiver can recognize it, or is sent as a new one with `edited` as its payload. A DAG file is parsed
    again. InvalidInput if the dead letter is not open or `edited` is not valid; nothing has changed then.
    """
    with store.connection.transaction():
        _require_open(store, letter_id)
        request = _Replay(store, runs, store.get(letter_id), by, edited, reason)
        if request.letter["kind"] == "job":
            reference = _replay_job(request)
        elif request.letter["kind"] == "message":
            reference = _retry_message(request) if edited is None else _send_edited_message(request, edited)
        else:
            reference = _reparse_file(request)
    return ReplayResult(letter_id, reference)


def discard(store: DeadLetterStore, letter_id: int, *, by: str, reason: str) -> None:
    """Close a dead letter without a replay. InvalidInput if it is not open or no reason is given."""
    if not reason.strip() or len(reason) > MAX_REASON_LENGTH:
        raise InvalidInput("reason", f"give the reason for discarding it, in 1 to {MAX_REASON_LENGTH} characters")
    with store.connection.transaction():
        _require_open(store, letter_id)
        store.close(letter_id, "discarded", by=by, reason=reason.strip(), replay_ref=None)


def run_bulk(
    store: DeadLetterStore, wanted: Filter, action: Callable[[int], object], *, dry_run: bool, limit: int = BULK_LIMIT
) -> BulkReport:
    """Apply `action` to every open dead letter that matches, oldest first; a failure affects only its own dead letter.

    A dry run only lists them.
    """
    if wanted.state not in (None, "open"):
        raise InvalidInput("state", f"only open dead letters can be replayed or discarded, not {wanted.state} ones")
    found = list(store.iterate(Filter("open", wanted.kind, wanted.name, wanted.failure_class, wanted.since), limit))
    found.reverse()
    report = BulkReport(dry_run, matched=len(found))
    if dry_run:
        report.done = [row["id"] for row in found]
        return report
    replayed_runs: set[tuple[str, str | None]] = set()
    for row in found:
        run = (row["name"], row["run_id"])
        try:
            # One replay of a run closes the dead letters of all its tasks.
            if row["kind"] != "job" or run not in replayed_runs:
                result = action(row["id"])
                if row["kind"] == "job" and isinstance(result, ReplayResult):
                    replayed_runs.add(run)
            report.done.append(row["id"])
        except BacklineError as exc:
            report.failed[row["id"]] = str(exc)
    return report


def _require_open(store: DeadLetterStore, letter_id: int) -> None:
    state = store.lock(letter_id)
    if state != "open":
        raise InvalidInput("id", f"dead letter {letter_id} is {state}; only an open one can be replayed or discarded")


def _replay_job(request: _Replay) -> str:
    letter, dag_id = request.letter, request.letter["name"]
    if request.edited is not None:
        check_conf(dag_id, request.runs.dag_params(dag_id), request.edited, "edited")
    # The id is the same for two simultaneous replays, so that they start one run.
    new_run = f"replay-{letter['id']}-{letter['attempts']}-{letter['failed_at']:%Y%m%dT%H%M%S}"
    note = f"Replay of dead letter {letter['id']}: {dag_id}/{letter['run_id']}, by {request.by}"
    note += f" ({request.reason})" if request.reason else ""
    conf = letter["conf"] or {} if request.edited is None else request.edited
    request.runs.start_run(dag_id, new_run, conf, note)
    reference = f"run {dag_id}/{new_run}"
    request.store.close_run(dag_id, letter["run_id"], by=request.by, reason=request.reason, replay_ref=reference)
    return reference


def _retry_message(request: _Replay) -> str:
    message_id = _message_id(request.letter)
    connection = request.store.connection
    if not connection.execute(statement("outbox", "message_retry"), {"id": message_id}).fetchall():
        raise InvalidInput(
            "id", f"message {message_id} cannot be retried unchanged: it is not dead any more, it has expired, "
            "or its secret fields are erased; replay it edited",
        )  # fmt: skip
    # A trigger has closed the dead letter together with its message.
    values = {"id": request.letter["id"], "by": request.by, "reason": request.reason}
    connection.execute(statement("dead_letters", "letter_set_closed_by"), values)
    return f"message {message_id}"


def _send_edited_message(request: _Replay, edited: Mapping[str, Any]) -> str:
    letter = request.letter
    kind = registry.get(letter["name"])
    kind.parse(edited)
    several = len(kind.channels) > 1
    values = {
        "type": letter["name"], "payload": json.dumps(edited), "priority": letter["priority"],
        "recipient": json.dumps({letter["channel"]: letter["recipient"]}) if several else letter["recipient"],
        "request_id": letter["request_id"], "lane": None if several else letter["lane"], "replay_of": _message_id(letter),
    }  # fmt: skip
    [row] = request.store.connection.execute(statement("dead_letters", "message_replay"), values).fetchall()
    reference = f"{'group' if several else 'message'} {row['id']}"
    request.store.close(letter["id"], "replayed", by=request.by, reason=request.reason, replay_ref=reference)
    return reference


def _reparse_file(request: _Replay) -> str:
    if request.edited is not None:
        raise InvalidInput("edited", "is not for a DAG file: edit the file, then replay without it")
    request.runs.reparse(request.letter["bundle"], request.letter["name"])
    reference = f"file {request.letter['name']}"
    request.store.close(request.letter["id"], "replayed", by=request.by, reason=request.reason, replay_ref=reference)
    return reference


def _message_id(letter: Row) -> int:
    if letter["message_state"] is None:
        raise InvalidInput("id", f"message {letter['message_id']} no longer exists; send it as a new message")
    return int(letter["message_id"])
