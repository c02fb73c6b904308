"""What is asked of the table of dead letters, one method a statement of `include/sql/dead_letters.sql`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, Literal, Self

from backline.db.connect import Session, session
from backline.db.statements import statement
from backline.dead_letters.failures import Failure, ImportFailure
from backline.errors import InvalidInput

PAGE_SIZE = 500
Row = dict[str, Any]
State = Literal["open", "replayed", "discarded", "resolved"]
STATES = ("open", "replayed", "discarded", "resolved")
KINDS = ("message", "job", "import")


@dataclass(frozen=True, slots=True)
class Filter:
    """Which letters; None takes everything."""

    state: str | None = None
    kind: str | None = None
    name: str | None = None
    failure_class: str | None = None
    since: datetime | None = None

    def __post_init__(self) -> None:
        """InvalidInput names a filter that cannot match."""
        if self.state is not None and self.state not in STATES:
            raise InvalidInput("state", f"{self.state!r} is not a state; use one of: {', '.join(STATES)}")
        if self.kind is not None and self.kind not in KINDS:
            raise InvalidInput("kind", f"{self.kind!r} is not a kind; use one of: {', '.join(KINDS)}")


class DeadLetterStore:
    """The table, over one connection."""

    def __init__(self, connection: Session) -> None:
        self.connection = connection

    @classmethod
    @contextmanager
    def open(cls, dsn: str) -> Iterator[Self]:
        """Over a connection of its own."""
        with session(dsn, name="dead letters") as connection:
            yield cls(connection)

    # --- recording

    def record(self, failure: Failure) -> int | None:
        """Write down a failed task or run; returns the letter's id, None if a message in the outbox stands for it."""
        values = {**asdict(failure), "class": failure.failure_class, "conf": json.dumps(dict(failure.conf))}
        rows = self._execute(statement("dead_letters", "job_record"), values)
        return rows[0]["id"] if rows else None

    def record_messages(self) -> int:
        """Write down dead messages that the outbox's own trigger has missed; returns how many."""
        return len(self._execute(statement("dead_letters", "message_record_missing"), {}))

    def record_import(self, failure: ImportFailure) -> int:
        """Write down a DAG file that cannot be imported."""
        cause = failure.traceback.strip()
        values = {
            "file": failure.file, "bundle": failure.bundle, "error_hash": import_hash(failure),
            "cause": "\n".join(cause.splitlines()[-20:]), "failed_at": failure.failed_at,
        }  # fmt: skip
        return int(self._execute(statement("dead_letters", "import_record"), values)[0]["id"])

    def resolve_imports(self, present: Sequence[ImportFailure]) -> int:
        """Close the letters of import errors that are not among those present; returns how many."""
        files, hashes = [error.file for error in present], [import_hash(error) for error in present]
        return len(self._execute(statement("dead_letters", "import_resolve"), {"files": files, "hashes": hashes}))

    def for_runs(self, runs: Sequence[tuple[str, str]]) -> list[Row]:
        """What is known of runs, given as (DAG id, run id)."""
        values = {"dag_ids": [dag_id for dag_id, _ in runs], "run_ids": [run_id for _, run_id in runs]}
        return self._execute(statement("dead_letters", "run_letter_list"), values)

    def get_cursor(self, name: str) -> datetime | None:
        """How far a reader has come, None if it never ran."""
        rows = self._execute(statement("dead_letters", "cursor_get"), {"name": name})
        return rows[0]["at"] if rows else None

    def set_cursor(self, name: str, at: datetime) -> None:
        """Note how far a reader has come."""
        self._execute(statement("dead_letters", "cursor_set"), {"name": name, "at": at})

    # --- looking

    def get(self, letter_id: int) -> Row:
        """One letter; InvalidInput for the field `id` if there is none."""
        rows = self._execute(statement("dead_letters", "letter_get"), {"id": letter_id})
        if not rows:
            raise InvalidInput("id", f"there is no dead letter {letter_id}; list them with dead-letters list")
        return rows[0]

    def list_page(self, wanted: Filter, *, before_id: int | None = None, limit: int = 50) -> list[Row]:
        """Letters by filter, newest first; `before_id` is the last id of the page before."""
        values = {
            "state": wanted.state, "kind": wanted.kind, "name": wanted.name, "class": wanted.failure_class,
            "since": wanted.since, "before_id": before_id, "batch_limit": limit,
        }  # fmt: skip
        return self._execute(statement("dead_letters", "letter_list"), values)

    def iterate(self, wanted: Filter, limit: int | None = None) -> Iterator[Row]:
        """All letters by filter, page by page, at most so many."""
        before, left = None, limit
        while left is None or left > 0:
            rows = self.list_page(wanted, before_id=before, limit=PAGE_SIZE if left is None else min(PAGE_SIZE, left))
            if not rows:
                return
            yield from rows
            before, left = rows[-1]["id"], None if left is None else left - len(rows)

    def failure_groups(self, since: datetime, limit: int = 50) -> list[Row]:
        """What failed since then, grouped by what, where and class, the most frequent first."""
        return self._execute(statement("dead_letters", "failure_group_list"), {"since": since, "batch_limit": limit})

    # --- closing

    def lock(self, letter_id: int) -> str:
        """The letter's state, locked until the transaction ends; InvalidInput if there is no such letter."""
        rows = self._execute(statement("dead_letters", "letter_lock"), {"id": letter_id})
        if not rows:
            raise InvalidInput("id", f"there is no dead letter {letter_id}; list them with dead-letters list")
        return str(rows[0]["state"])

    def close(self, letter_id: int, state: State, *, by: str, reason: str | None, replay_ref: str | None) -> None:
        """Close one letter."""
        values = {"id": letter_id, "state": state, "by": by, "reason": reason, "replay_ref": replay_ref}
        self._execute(statement("dead_letters", "letter_close"), values)

    def close_run(self, dag_id: str, run_id: str, *, by: str, reason: str | None, replay_ref: str) -> None:
        """Close every open letter of a run as replayed."""
        values = {"dag_id": dag_id, "run_id": run_id, "by": by, "reason": reason, "replay_ref": replay_ref}
        self._execute(statement("dead_letters", "run_letters_close"), values)

    def _execute(self, sql: Any, values: Mapping[str, Any]) -> list[Row]:
        cursor = self.connection.execute(sql, values)
        return cursor.fetchall() if cursor.description else []


def import_hash(failure: ImportFailure) -> str:
    """What makes an import error the same one: its text."""
    return hashlib.sha256(failure.traceback.strip().encode()).hexdigest()
