"""Replaying and discarding dead letters, one at a time or in bulk, each exactly once."""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from backline.airflow_api import check_conf
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
    also: Sequence[int]
    by: str
    edited: Mapping[str, Any] | None
    reason: str | None

    def close(self, reference: str, letter_id: int | None = None) -> None:
        """Close the dead letter, or another one, as replayed."""
        closed = self.letter["id"] if letter_id is None else letter_id
        self.store.close(closed, "replayed", by=self.by, reason=self.reason, replay_ref=reference)


def replay(
    store: DeadLetterStore,
    runs: RunsClient,
    letter_id: int,
    *,
    by: str,
    edited: Mapping[str, Any] | None = None,
    reason: str | None = None,
    also: Sequence[int] = (),
) -> ReplayResult:
    """Run again what a dead letter is about, and close the dead letter.

    A job starts as a new run with the same conf, or with `edited` as its conf. For an item of a job, a new run starts in
    the same way, and takes the item again; `also` are dead letters of further items of that job for the same run. A
    message is retried under its own id, so that the receiver can recognize it, or is sent as a new one with `edited` as
    its payload. A DAG file is parsed again. InvalidInput if the dead letter is not open or `edited` is not valid; nothing
    has changed then.
    """
    with store.connection.transaction():
        _require_open(store, letter_id)
        request = _Replay(store, runs, store.get(letter_id), also, by, edited, reason)
        if request.letter["kind"] == "job":
            reference = _replay_job(request)
        elif request.letter["kind"] == "item":
            reference = _replay_items(request)
        elif request.letter["kind"] == "message":
            reference = _retry_message(request) if edited is None else _send_edited_message(request, edited)
        else:
            reference = _reparse_file(request)
    return ReplayResult(letter_id, reference)


def discard(store: DeadLetterStore, letter_id: int, *, by: str, reason: str) -> None:
    """Close a dead letter without a replay; an item of a job is attempted again by the job's next run.

    InvalidInput if it is not open or no reason is given.
    """
    if not reason.strip() or len(reason) > MAX_REASON_LENGTH:
        raise InvalidInput("reason", f"give the reason for discarding it, in 1 to {MAX_REASON_LENGTH} characters")
    with store.connection.transaction():
        _require_open(store, letter_id)
        store.close(letter_id, "discarded", by=by, reason=reason.strip(), replay_ref=None)


def replay_bulk(
    store: DeadLetterStore,
    runs: RunsClient,
    wanted: Filter,
    *,
    by: str,
    reason: str | None = None,
    dry_run: bool,
    limit: int = BULK_LIMIT,
) -> BulkReport:
    """Replay every open dead letter that matches, oldest first; a dry run only lists them.

    All that one new run takes up are replayed together: the tasks of a run, and the items of a job with the same conf.
    """

    def replay_together(ids: Sequence[int]) -> None:
        replay(store, runs, ids[0], by=by, reason=reason, also=ids[1:])

    return _run_bulk(store, wanted, replay_together, _replayed_together, dry_run=dry_run, limit=limit)


def discard_bulk(
    store: DeadLetterStore, wanted: Filter, *, by: str, reason: str, dry_run: bool, limit: int = BULK_LIMIT
) -> BulkReport:
    """Discard every open dead letter that matches, oldest first; a dry run only lists them."""

    def discard_one(ids: Sequence[int]) -> None:
        discard(store, ids[0], by=by, reason=reason)

    return _run_bulk(store, wanted, discard_one, lambda row: row["id"], dry_run=dry_run, limit=limit)


def _run_bulk(
    store: DeadLetterStore,
    wanted: Filter,
    action: Callable[[Sequence[int]], None],
    group_key: Callable[[Row], Hashable],
    *,
    dry_run: bool,
    limit: int,
) -> BulkReport:
    """Apply `action` to the dead letters of each group; a failure affects only its own group."""
    if wanted.state not in (None, "open"):
        raise InvalidInput("state", f"only open dead letters can be replayed or discarded, not {wanted.state} ones")
    groups: dict[Hashable, list[int]] = {}
    for row in reversed(list(store.iterate(replace(wanted, state="open"), limit))):
        groups.setdefault(group_key(row), []).append(row["id"])
    report = BulkReport(dry_run, matched=sum(map(len, groups.values())))
    for ids in groups.values():
        try:
            if not dry_run:
                action(ids)
        except BacklineError as exc:
            report.failed |= dict.fromkeys(ids, str(exc))
        else:
            report.done += ids
    report.done.sort()
    return report


def _replayed_together(row: Row) -> Hashable:
    if row["kind"] == "job":
        return "job", row["name"], row["run_id"]
    if row["kind"] == "item":
        return "item", row["name"], json.dumps(row["conf"], sort_keys=True)
    return int(row["id"])


def _require_open(store: DeadLetterStore, letter_id: int) -> None:
    state = store.lock(letter_id)
    if state != "open":
        raise InvalidInput("id", f"dead letter {letter_id} is {state}; only an open one can be replayed or discarded")


def _replay_job(request: _Replay) -> str:
    reference = _start_run(request)
    name, run_id = request.letter["name"], request.letter["run_id"]
    request.store.close_run(name, run_id, by=request.by, reason=request.reason, replay_ref=reference)
    return reference


def _replay_items(request: _Replay) -> str:
    # Closed first: the run must not find them open.
    reference = f"run {request.letter['name']}/{_replay_run_id(request.letter)}"
    request.close(reference)
    for letter_id in request.also:
        if request.store.lock(letter_id) == "open":
            request.close(reference, letter_id)
    return _start_run(request)


def _start_run(request: _Replay) -> str:
    """Start a run of the dead letter's job; returns its reference."""
    letter, dag_id = request.letter, request.letter["name"]
    if request.edited is not None:
        check_conf(dag_id, request.runs.dag_params(dag_id), request.edited, "edited")
    more = f" and {len(request.also)} more" if letter["kind"] == "item" and request.also else ""
    item = f", item {letter['item_key']}" if letter["kind"] == "item" else ""
    note = f"Replay of dead letter {letter['id']}{more}: {dag_id}/{letter['run_id']}{item}, by {request.by}"
    note += f" ({request.reason})" if request.reason else ""
    conf = letter["conf"] or {} if request.edited is None else request.edited
    request.runs.start_run(dag_id, _replay_run_id(letter), conf, note)
    return f"run {dag_id}/{_replay_run_id(letter)}"


def _replay_run_id(letter: Row) -> str:
    """The same id for two simultaneous replays of one failure, so that they start one run."""
    return f"replay-{letter['id']}-{letter['attempts']}-{letter['failed_at']:%Y%m%dT%H%M%S}"


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
    message = NewMessage(
        letter["name"], json.dumps({letter["channel"]: letter["recipient"]}) if several else letter["recipient"], edited,
        priority=letter["priority"], lane=None if several else letter["lane"], request_id=letter["request_id"],
        replay_of=_message_id(letter),
    )  # fmt: skip
    [new_id] = enqueue_many(request.store.connection, [message])
    reference = f"{'group' if several else 'message'} {new_id}"
    request.close(reference)
    return reference


def _reparse_file(request: _Replay) -> str:
    if request.edited is not None:
        raise InvalidInput("edited", "is not for a DAG file: edit the file, then replay without it")
    request.runs.reparse(request.letter["bundle"], request.letter["name"])
    reference = f"file {request.letter['name']}"
    request.close(reference)
    return reference


def _message_id(letter: Row) -> int:
    if letter["message_state"] is None:
        raise InvalidInput("id", f"message {letter['message_id']} no longer exists; send it as a new message")
    return int(letter["message_id"])
