"""What a job leaves for those who started it: its progress while it runs, its result for a while after.

Both are for people and programs with no more rights than a viewer, so neither may hold a secret.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from pydantic_core import PydanticSerializationError, to_jsonable_python

from backline.db.connect import Session, session
from backline.db.statements import statement
from backline.errors import InvalidInput

MAX_RESULT_BYTES = 64 * 1024
"""Bytes of JSON; what is larger is a file, and its path the result."""
MAX_DOING_LENGTH = 200
MIN_PROGRESS_INTERVAL_SECONDS = 1.0
"""Progress is written no more often; the last word always is."""
PRUNE_BATCH = 5000
RUN_PATTERN = r"[^:\x00-\x1f\x7f]+:[^\x00-\x1f\x7f]+"
_SECRET_FIELD_NAME = re.compile(r"(?i)(passw|secret|token|api_?key|authorization|private_?key|credential)")


@dataclass(frozen=True, slots=True)
class RunRef:
    """Which run."""

    dag_id: str
    run_id: str

    def __str__(self) -> str:
        return f"{self.dag_id}:{self.run_id}"

    @classmethod
    def parse(cls, text: str, field: str = "id") -> Self:
        """Parse `<dag_id>:<run_id>`; a DAG id has no colon, so the first one ends it. InvalidInput names the field."""
        if not re.fullmatch(RUN_PATTERN, text):
            raise InvalidInput(
                field, f"{text[:80]!r} is not a run; write <dag_id>:<run_id>, as in count_orders:manual__1"
            )
        dag_id, _, run_id = text.partition(":")
        return cls(dag_id, run_id)


class ResultStore:
    """Where one run tells how far it is. `ttl_seconds`: how long what it says is kept after it was said."""

    def __init__(self, dsn: str, run: RunRef, ttl_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._dsn, self._run, self._ttl_seconds, self._clock = dsn, run, ttl_seconds, clock
        self._next_write_at = clock()

    def progress(self, percent: float, doing: str = "") -> bool:
        """Store how far the run is, 0 to 100, and what it does; False if it is too soon to write again. InvalidInput."""
        if not 0 <= percent <= 100:
            raise InvalidInput("percent", f"{percent} is not from 0 to 100")
        now = self._clock()
        if now < self._next_write_at and percent < 100:
            return False
        self._next_write_at = now + MIN_PROGRESS_INTERVAL_SECONDS
        self._execute("progress_set", percent=percent, doing=doing[:MAX_DOING_LENGTH])
        return True

    def result(self, value: Any) -> None:
        """Keep the run's result. InvalidInput if it is no JSON, too large, or has a field that looks like a secret."""
        self._execute("result_set", result=serialize_result(value))

    def _execute(self, name: str, **values: Any) -> None:
        given = {"dag_id": self._run.dag_id, "run_id": self._run.run_id, "ttl_seconds": self._ttl_seconds, **values}
        with session(self._dsn, name="job") as connection:
            connection.execute(statement("jobs", name), given)


def to_json_data(value: object) -> Any:
    """What a function returned (a dataclass, a model, dates) as JSON data; InvalidInput if that is impossible."""
    try:
        return to_jsonable_python(value, inf_nan_mode="strings")
    except (PydanticSerializationError, ValueError, RecursionError) as exc:
        raise InvalidInput("result", f"cannot be written as JSON: {exc}") from None


def serialize_result(value: Any) -> str:
    """A result as JSON; see `ResultStore.result`."""
    try:
        text = json.dumps(value, allow_nan=False, ensure_ascii=False)
        size = len(text.encode())
    except (TypeError, ValueError, RecursionError) as exc:
        raise InvalidInput("result", f"cannot be written as JSON: {exc}") from None
    if "\\u0000" in text.replace("\\\\", ""):
        raise InvalidInput("result", "has a NUL character, which the database cannot store; remove it")
    if size > MAX_RESULT_BYTES:
        raise InvalidInput("result", f"is larger than {MAX_RESULT_BYTES // 1024} KiB; write a file and return its path")
    if (name := _find_secret_field(value)) is not None:
        raise InvalidInput(f"result.{name}", "looks like a secret, and every viewer can read results; leave it out")
    return text


def fetch_result(connection: Session, run: RunRef) -> dict[str, Any] | None:
    """Progress, result and times of a run; None if nothing is stored or it is no longer kept."""
    values = {"dag_id": run.dag_id, "run_id": run.run_id}
    return connection.execute(statement("jobs", "result_get"), values).fetchone()


def prune_results(dsn: str) -> int:
    """Delete results whose time is over, in batches; returns how many."""
    total = 0
    with session(dsn, name="results") as connection:
        while True:
            batch = len(connection.execute(statement("jobs", "result_prune"), {"batch_limit": PRUNE_BATCH}).fetchall())
            total += batch
            if batch < PRUNE_BATCH:
                return total


def _find_secret_field(value: Any) -> str | None:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if name == "outcomes" and isinstance(inner, Mapping) and all(isinstance(n, int) for n in inner.values()):
                continue  # words with counts
            if inner is not None and _SECRET_FIELD_NAME.search(str(name)):
                return str(name)
            if (found := _find_secret_field(inner)) is not None:
                return f"{name}.{found}"
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for place, inner in enumerate(value):
            if (found := _find_secret_field(inner)) is not None:
                return f"{place}.{found}"
    return None
