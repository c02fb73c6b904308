"""Replaying and discarding dead letters, one at a time or in bulk, each exactly once."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from backline.airflow_api import check_conf
from backline.audit_trail import Actor
from backline.db.connect import UNREADABLE
from backline.dead_letters.runs import AirflowRuns
from backline.dead_letters.store import DeadLetterStore, Filter, Row
from backline.errors import BacklineError, InvalidInput
from backline.messages import registry
from backline.outbox.submission import NewMessage, enqueue_many, retry

BULK_LIMIT = 10_000
MAX_REASON_LENGTH = 500


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """A replayed dead letter, and what it was replayed as: "run DAG/RUN", "message ID", "group ID" or "file FILE"."""

    id: int
    reference: str


@dataclass(slots=True)
class BulkReport:
    """What a bulk action did, or (dry run) would do."""

    dry_run: bool
    matched: int = 0
    done: list[int] = field(default_factory=list)
    failed: dict[int, str] = field(default_factory=dict)


def replay(
    store: DeadLetterStore,
    runs: AirflowRuns,
    letter_id: int,
    *,
    by: str,
    edited: Mapping[str, object] | None = None,
    reason: str | None = None,
    also: Sequence[int] = (),
) -> ReplayResult:
    """Run again what a dead letter is about, and close the dead letter.

    A job or an item starts a new run with the same conf, or with `edited`; `also` are further items for the same run. A
    message is retried under its own id, or is sent as a new one with `edited` as its payload. A DAG file is parsed again.
    InvalidInput if the dead letter is not open or `edited` is not valid; nothing has changed then.
    """
    with store.connection.transaction():
        _require_open(store, letter_id)
        letter = store.get(letter_id)
        kind, name = letter["kind"], letter["name"]
        if kind == "message" and letter["message_state"] is None:
            raise InvalidInput("id", f"message {letter['message_id']} no longer exists; send it as a new message")
        if kind == "message":
            reference = f"message {letter['message_id']}" if edited is None else _send_edited(store, letter, edited)
        elif kind == "import":
            reference = f"file {name}"
        else:
            # The id is the same for two simultaneous replays, so that they start one run.
            run_id = f"replay-{letter_id}-{letter['attempts']}-{letter['failed_at']:%Y%m%dT%H%M%S}"
            reference = f"run {name}/{run_id}"
        if kind == "job":
            store.close_run(name, letter["run_id"], by=by, reason=reason, replay_ref=reference)
        for closed in (letter_id, *also):
            store.close(closed, "replayed", by=by, reason=reason, replay_ref=reference)
        # Last, because what starts now must find the dead letters closed.
        if kind == "message" and edited is None:
            retry(store.connection, letter["message_id"], Actor(by))
        elif kind == "import":
            if edited is not None:
                raise InvalidInput("edited", "is not for a DAG file: edit the file, then replay without it")
            runs.reparse(letter["bundle"], name)
        elif kind in ("job", "item"):
            if edited is not None:
                check_conf(name, runs.dag_params(name), edited, "edited")
            conf = letter["conf"] or {} if edited is None else edited
            if UNREADABLE in conf:
                raise InvalidInput("edited", "the stored conf cannot be read; give another one")
            runs.start_run(name, run_id, conf, _note(letter, by, reason, more=len(also) if kind == "item" else 0))
    return ReplayResult(letter_id, reference)


def discard(store: DeadLetterStore, letter_id: int, *, by: str, reason: str) -> None:
    """Close a dead letter without a replay; the job's next run attempts an item again.

    InvalidInput if it is not open or no reason is given.
    """
    if not reason.strip() or len(reason) > MAX_REASON_LENGTH:
        raise InvalidInput("reason", f"give the reason for discarding it, in 1 to {MAX_REASON_LENGTH} characters")
    with store.connection.transaction():
        _require_open(store, letter_id)
        store.close(letter_id, "discarded", by=by, reason=reason.strip(), replay_ref=None)


def replay_bulk(
    store: DeadLetterStore, runs: AirflowRuns, wanted: Filter, *, by: str, reason: str | None = None, dry_run: bool
) -> BulkReport:
    """Replay every open dead letter that matches, oldest first; a dry run only lists them.

    One new run is started for all failed tasks of a run, and for all items of a job that failed with the same conf.
    """

    def act(ids: Sequence[int]) -> None:
        replay(store, runs, ids[0], by=by, reason=reason, also=ids[1:])

    return _run_bulk(store, wanted, act, _replay_group, dry_run=dry_run)


def discard_bulk(store: DeadLetterStore, wanted: Filter, *, by: str, reason: str, dry_run: bool) -> BulkReport:
    """Discard every open dead letter that matches, oldest first; a dry run only lists them."""

    def act(ids: Sequence[int]) -> None:
        discard(store, ids[0], by=by, reason=reason)

    return _run_bulk(store, wanted, act, lambda row: str(row["id"]), dry_run=dry_run)


def _run_bulk(
    store: DeadLetterStore,
    wanted: Filter,
    act: Callable[[Sequence[int]], None],
    group: Callable[[Row], str],
    *,
    dry_run: bool,
) -> BulkReport:
    """Apply an action to the dead letters of each group; a failure affects only its own group."""
    if wanted.state not in (None, "open"):
        raise InvalidInput("state", f"only open dead letters can be replayed or discarded, not {wanted.state} ones")
    groups: dict[str, list[int]] = {}
    for row in reversed(list(store.iterate(replace(wanted, state="open"), BULK_LIMIT))):
        groups.setdefault(group(row), []).append(row["id"])
    report = BulkReport(dry_run, matched=sum(map(len, groups.values())))
    for ids in groups.values():
        try:
            if not dry_run:
                act(ids)
            report.done += ids
        except BacklineError as exc:
            report.failed |= dict.fromkeys(ids, str(exc))
    report.done.sort()
    return report


def _replay_group(row: Row) -> str:
    """The same for dead letters that one replay closes."""
    parts = {"job": row["run_id"], "item": row["conf"]}
    return json.dumps([row["kind"], row["name"], parts.get(row["kind"], row["id"])], sort_keys=True)


def _require_open(store: DeadLetterStore, letter_id: int) -> None:
    state = store.lock(letter_id)
    if state != "open":
        raise InvalidInput("id", f"dead letter {letter_id} is {state}; only an open one can be replayed or discarded")


def _note(letter: Row, by: str, reason: str | None, *, more: int) -> str:
    """The note of a run that replays a dead letter, and `more` others."""
    item = f", item {letter['item_key']}" if letter["kind"] == "item" else ""
    others = f" and {more} more" if more else ""
    note = f"Replay of dead letter {letter['id']}{others}: {letter['name']}/{letter['run_id']}{item}, by {by}"
    return f"{note} ({reason})" if reason else note


def _send_edited(store: DeadLetterStore, letter: Row, edited: Mapping[str, object]) -> str:
    """Enqueue an edited message as a new one; returns its reference."""
    kind = registry.get(letter["name"])
    kind.parse(edited)
    several = len(kind.channels) > 1
    message = NewMessage(
        letter["name"], {letter["channel"]: letter["recipient"]} if several else letter["recipient"], edited,
        priority=letter["priority"], lane=None if several else letter["lane"], request_id=letter["request_id"],
        replay_of=letter["message_id"],
    )  # fmt: skip
    [new_id] = enqueue_many(store.connection, [message])
    return f"{'group' if several else 'message'} {new_id}"
