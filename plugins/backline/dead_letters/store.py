"""The table of dead letters: one method per statement of `include/sql/dead_letters.sql`."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal, Self

import psycopg

from backline.db.connect import Session, readable_json, session, to_storable
from backline.db.statements import statement
from backline.dead_letters.failures import Failure, ImportFailure
from backline.errors import InvalidInput
from backline.messages.run_conf import redact_conf, type_of_dag

log = logging.getLogger(__name__)

PAGE_SIZE = 500
Row = dict[str, Any]
State = Literal["open", "replayed", "discarded", "resolved"]
STATES = ("open", "replayed", "discarded", "resolved")
KINDS = ("message", "job", "item", "import")


@dataclass(frozen=True, slots=True)
class Filter:
    """Which dead letters; None matches all. InvalidInput names a state or kind that does not exist."""

    state: str | None = None
    kind: str | None = None
    name: str | None = None
    failure_class: str | None = None
    since: datetime | None = None

    def __post_init__(self) -> None:
        for field, value, known in (("state", self.state, STATES), ("kind", self.kind, KINDS)):
            if value is not None and value not in known:
                raise InvalidInput(field, f"{value!r} is not a {field}; use one of: {', '.join(known)}")


class DeadLetterStore:
    """The table, over one connection."""

    def __init__(self, connection: Session) -> None:
        self.connection = connection

    @classmethod
    @contextmanager
    def open(cls, dsn: str) -> Iterator[Self]:
        """The table over a new connection, closed at the end."""
        with session(dsn, name="dead letters") as connection:
            yield cls(connection)

    def fetch(self, name: str, values: Mapping[str, object]) -> list[Row]:
        """The rows of a statement; none if it returns nothing."""
        cursor = self.connection.execute(statement("dead_letters", name), values)
        return cursor.fetchall() if cursor.description else []

    def record(self, failure: Failure) -> int | None:
        """Record a failed task or run; returns the dead letter's id, or None if the failure is that of a message."""
        kind, conf = type_of_dag(failure.dag_id), dict(failure.conf)
        stored = conf if kind is None else redact_conf(kind, conf)
        values = {
            **asdict(failure),
            "class": failure.failure_class,
            "cause": to_storable(failure.cause),
            "conf": json.dumps(stored),
        }
        try:
            with self.connection.transaction():
                rows = self.fetch("job_record", values)
        except psycopg.DataError as exc:  # JSON of Python that is none of PostgreSQL: NaN, a NUL, half a surrogate pair
            log.warning("the conf of %s/%s cannot be stored: %s", failure.dag_id, failure.run_id, exc)
            rows = self.fetch("job_record", {**values, "conf": "{}"})
        return rows[0]["id"] if rows else None

    def record_messages(self) -> int:
        """Record dead messages that the outbox's trigger has missed; returns how many."""
        return len(self.fetch("message_record_missing", {}))

    def record_import(self, failure: ImportFailure) -> int:
        """Record a DAG file that cannot be imported; returns the dead letter's id."""
        cause = to_storable("\n".join(failure.traceback.strip().splitlines()[-20:]))
        values = {
            "file": failure.file, "bundle": failure.bundle, "error_hash": import_hash(failure), "cause": cause,
            "failed_at": failure.failed_at,
        }  # fmt: skip
        return int(self.fetch("import_record", values)[0]["id"])

    def resolve_imports(self, present: Sequence[ImportFailure]) -> int:
        """Close the dead letters of import errors that are not among `present`; returns how many."""
        files, hashes = [error.file for error in present], [import_hash(error) for error in present]
        return len(self.fetch("import_resolve", {"files": files, "hashes": hashes}))

    def for_runs(self, runs: Sequence[tuple[str, str]]) -> list[Row]:
        """Dead letters of runs, each given as (DAG id, run id)."""
        values = {"dag_ids": [dag_id for dag_id, _ in runs], "run_ids": [run_id for _, run_id in runs]}
        return self.fetch("run_letter_list", values)

    def get_cursor(self, name: str) -> datetime | None:
        """Up to when a reader has read; None if it has never run."""
        rows = self.fetch("cursor_get", {"name": name})
        return rows[0]["at"] if rows else None

    def set_cursor(self, name: str, at: datetime) -> None:
        """Note up to when a reader has read; a cursor never goes back."""
        self.fetch("cursor_set", {"name": name, "at": at})

    def get(self, letter_id: int) -> Row:
        """One dead letter; InvalidInput for the field `id` if it does not exist."""
        return _with_conf(self._fetch_one("letter_get", letter_id))

    def list_page(self, wanted: Filter, *, before_id: int | None = None, limit: int = 50) -> list[Row]:
        """Dead letters that match, newest first; `before_id` is the last id of the previous page."""
        values = {**asdict(wanted), "class": wanted.failure_class, "before_id": before_id, "batch_limit": limit}
        return [_with_conf(row) for row in self.fetch("letter_list", values)]

    def iterate(self, wanted: Filter, limit: int | None = None) -> Iterator[Row]:
        """All dead letters that match, up to `limit`, newest first, read page by page."""
        before, remaining = None, limit
        while remaining is None or remaining > 0:
            size = PAGE_SIZE if remaining is None else min(PAGE_SIZE, remaining)
            rows = self.list_page(wanted, before_id=before, limit=size)
            if not rows:
                return
            yield from rows
            before, remaining = rows[-1]["id"], None if remaining is None else remaining - len(rows)

    def failure_groups(self, since: datetime, limit: int = 50) -> list[Row]:
        """Failures since then, grouped by name, task and class, the most frequent group first."""
        return self.fetch("failure_group_list", {"since": since, "batch_limit": limit})

    def lock(self, letter_id: int) -> str:
        """The state of a dead letter, which is locked until the transaction ends; InvalidInput if it does not exist."""
        return str(self._fetch_one("letter_lock", letter_id)["state"])

    def close(self, letter_id: int, state: State, *, by: str, reason: str | None, replay_ref: str | None) -> None:
        """Close one dead letter."""
        values = {"id": letter_id, "state": state, "by": by, "reason": reason, "replay_ref": replay_ref}
        self.fetch("letter_close", values)

    def close_run(self, dag_id: str, run_id: str, *, by: str, reason: str | None, replay_ref: str) -> None:
        """Close every open dead letter of a run as replayed."""
        values = {"dag_id": dag_id, "run_id": run_id, "by": by, "reason": reason, "replay_ref": replay_ref}
        self.fetch("run_letters_close", values)

    def _fetch_one(self, name: str, letter_id: int) -> Row:
        rows = self.fetch(name, {"id": letter_id})
        if not rows:
            raise InvalidInput("id", f"there is no dead letter {letter_id}; list them with dead-letters list")
        return rows[0]


def _with_conf(row: Row) -> Row:
    return {**row, "conf": readable_json(row["conf"])}


def import_hash(failure: ImportFailure) -> str:
    """Identifies an import error: the hash of its traceback."""
    return hashlib.sha256(failure.traceback.strip().encode("utf-8", "backslashreplace")).hexdigest()
