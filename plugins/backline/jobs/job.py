"""What a job's function receives: one `Job` object, created by the Airflow adapter in a run and by a fixture in a test."""

from __future__ import annotations

import json
import logging
from collections import UserDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, LiteralString, Protocol, TypeVar

import psycopg
from psycopg.pq import TransactionStatus

from backline.db.connect import Session, UnreadableRow, fetch, fetch_each, session, translate_error, translate_errors
from backline.db.statements import statement
from backline.dead_letters.failures import classify, format_cause
from backline.errors import BacklineError, InvalidInput, Misconfigured, PermanentError, Skipped
from backline.jobs.batch import (
    MAX_CONSECUTIVE_TRANSIENT,
    BatchResult,
    fingerprint,
    is_transient,
    item_key,
    letter_key,
    stops_batch,
)
from backline.jobs.results import ResultStore, to_json_data
from backline.outbox import submission

if TYPE_CHECKING:
    from backline.channels.http import HttpGateway
    from backline.dead_letters.alerts import AlertSender
    from backline.dead_letters.runs import AirflowRuns
    from backline.payments.provider import Provider

T = TypeVar("T")
Row = TypeVar("Row")
SettingsT_co = TypeVar("SettingsT_co", covariant=True)
log = logging.getLogger(__name__)

PAGE_SIZE = 500
LOCK_TIMEOUT_SECONDS = 5.0
"""How long an item waits for a row that another transaction has locked."""


class TransactionLost(PermanentError):
    """The function of an item has ended or broken the item's transaction, so nothing of the item can be stored."""


class Clients(Protocol):
    """How a job reaches what is outside: by the names of Airflow's connections in a run."""

    def provider(self, name: str | None) -> Provider:
        """The payment provider of that name, None for the configured one; NotConfigured without its connection."""

    def connection(self, name: str) -> HttpGateway:
        """The HTTP gateway of a connection; NotConfigured if there is none of that name."""

    def airflow_runs(self) -> AbstractContextManager[AirflowRuns]:
        """The runs and DAG files of this Airflow."""

    def alert_sender(self) -> AlertSender:
        """How alerts about failures are sent, and to whom."""


class Params(UserDict[str, object]):
    """The run's params, as the DAG file declares them."""

    def __init__(self, values: Mapping[str, object], declared: Iterable[str] | None = None) -> None:
        """InvalidInput names a key that is not among the declared ones."""
        super().__init__(values)
        known = set(values if declared is None else declared)
        if unknown := sorted(set(values) - known):
            names = ", ".join(sorted(known)) or "none"
            raise InvalidInput(f"conf.{unknown[0]}", f"is not a parameter of this job; use one of: {names}")

    def required(self, name: str, kind: type[T]) -> T:
        """The value, which must be of that type; InvalidInput if it is not, or is not set."""
        value = self.optional(name, kind)
        if value is None:
            raise InvalidInput(f"conf.{name}", f"is required: give {_DESCRIPTIONS.get(kind, kind.__name__)}")
        return value

    def optional(self, name: str, kind: type[T]) -> T | None:
        """The value, or None if it is not set; InvalidInput if it is of another type, or an integer of more than 64 bits."""
        value = self.get(name)
        if isinstance(value, int) and not -(2**63) <= value < 2**63:  # PostgreSQL's bigint, and within a float's range
            raise InvalidInput(f"conf.{name}", "must be a whole number of at most 18 digits")
        if kind is float and isinstance(value, int) and not isinstance(value, bool):
            return kind(value)  # type: ignore[call-arg]
        if value is None or (isinstance(value, kind) and isinstance(value, bool) == (kind is bool)):
            return value
        raise InvalidInput(f"conf.{name}", f"must be {_DESCRIPTIONS.get(kind, kind.__name__)}, not {value!r:.100}")


_DESCRIPTIONS: dict[type, str] = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


@dataclass(slots=True)
class Job(Generic[SettingsT_co]):
    """One run of a job, or one task of a run that has several."""

    name: str
    run_id: str
    settings: SettingsT_co
    """The job's own section, or that of its function's domain."""
    params: Params
    now: datetime
    """The time of the run: one clock for all that it decides."""
    dsn: str
    """Of the app's database; functions use `database`."""
    results: ResultStore
    clients: Clients
    alert_recipients: tuple[str, ...] = ()
    """Email addresses of the operators."""
    conf: Mapping[str, object] = field(default_factory=dict)
    max_mapped_tasks: int = 1024
    """The most tasks that Airflow maps to one result: the longest list that a function may return for that."""
    _resources: ExitStack = field(default_factory=ExitStack)
    _database: Session | None = None
    _failure: Exception | None = None
    _unreadable: list[UnreadableRow] = field(default_factory=list)
    """Rows that were left out of `scan` and `items`, and not counted yet."""
    _batch: BatchResult = field(default_factory=BatchResult)
    """What `run_each` has done so far, for a run that fails later."""

    @property
    def database(self) -> Session:
        """A session on the app's database, in autocommit, opened on first use and closed with the job."""
        if self._database is None:
            self._database = self._resources.enter_context(session(self.dsn, name=self.name))
        return self._database

    @property
    def dry_run(self) -> bool:
        """Whether the caller asked for a dry run: parameter `dry_run`."""
        return self.params.optional("dry_run", bool) or False

    def progress(self, percent: float, doing: str = "") -> None:
        """Store how far the run is, 0 to 100, and what it does. Written at most once a second, so call it freely."""
        self.results.progress(percent, doing)

    def provider(self, name: str | None = None) -> Provider:
        """The payment provider of that name, or the configured one."""
        return self.clients.provider(name)

    def connection(self, name: str) -> HttpGateway:
        """The HTTP gateway of an Airflow connection."""
        return self.clients.connection(name)

    def transaction(self) -> AbstractContextManager[object]:
        """A transaction on `database`."""
        return self.database.transaction()

    def enqueue(
        self,
        type_name: str,
        recipient: str | Mapping[str, str],
        payload: Mapping[str, object],
        *,
        key: str,
        due_at: datetime | None = None,
    ) -> int:
        """Enqueue one message in the current transaction, once for its key; returns its id. InvalidInput names a wrong field."""
        if not isinstance(key, str) or not key:
            raise InvalidInput("key", f"must be text that identifies the message, not {key!r:.100}")
        return submission.enqueue(self.database, type_name, recipient, payload, key=key, due_at=due_at)

    def enqueue_many(self, messages: Sequence[submission.NewMessage]) -> list[int]:
        """Enqueue messages in the current transaction, set-based; returns their ids in the order given."""
        return submission.enqueue_many(self.database, messages)

    def rows(self, sql: LiteralString, row: type[Row], params: Mapping[str, object] | None = None) -> list[Row]:
        """All rows of a statement, each as the dataclass `row`, or of one column as a value of that type."""
        with translate_errors():
            return fetch(self.database, sql, row, params)

    def items(self, sql: LiteralString, row: type[Row], params: Mapping[str, object] | None = None) -> list[Row]:
        """As `rows`, for `run_each`: a row that Python cannot hold is left out, and is a failed item of it."""
        with translate_errors():
            return list(self._readable(fetch_each(self.database, sql, row, params)))

    def scan(
        self,
        sql: LiteralString,
        row: type[Row],
        params: Mapping[str, object] | None = None,
        *,
        page_size: int = PAGE_SIZE,
    ) -> Iterator[Row]:
        """The rows of a statement page by page: it takes `after_id` and `batch_limit`, and its rows have an ascending `id`.

        A page is read when the one before has been worked off, so rows that were handled meanwhile do not come again. A row that
        Python cannot hold is left out, and is a failed item of the next `run_each`.
        """
        after_id = 0
        while True:
            with translate_errors():
                values = {**(params or {}), "after_id": after_id, "batch_limit": page_size}
                page = fetch_each(self.database, sql, row, values)
            yield from self._readable(page)
            if len(page) < page_size:
                return
            last = page[-1]
            after_id = int(last.values["id"] or 0) if isinstance(last, UnreadableRow) else last.id  # type: ignore[attr-defined]

    def _readable(self, page: Iterable[Row | UnreadableRow]) -> Iterator[Row]:
        for row in page:
            if isinstance(row, UnreadableRow):
                self._unreadable.append(row)
            else:
                yield row

    def run_each(
        self,
        items: Iterable[T],
        function: Callable[[T], object],
        *,
        key: Callable[[T], str] = item_key,
        limit: int | None = None,
        transactional: bool = True,
        span: tuple[float, float] = (0.0, 100.0),
    ) -> BatchResult:
        """Process each item in a transaction of its own; a failure affects only its item.

        `function` may return a word for the outcome, or a tuple of words, which are counted. A permanent failure becomes one dead letter of the
        item (this job and the item's key), and the item is left out until the letter is replayed or discarded or the item's
        data changes; the run goes on and succeeds. Transient failures are attempted once more at the end; what still fails
        is raised after the run's result has been stored, so that Airflow retries what is left. A wrong setting, a missing
        table and refused credentials stop the batch at once. A dry run neither opens nor closes dead letters.

        `key`: text, unique within the job. `limit`: at most so many items are attempted. `transactional=False`: `function`
        commits by itself, for work that must be on disk before a provider is called. `span`: the range of the run's progress
        that this batch covers, percent. InvalidInput for a negative limit; Misconfigured inside a transaction.
        """
        if limit is not None and limit < 0:
            raise InvalidInput("limit", f"{limit} is negative; give the number of items to attempt, or None for all")
        if self.database.info.transaction_status is not TransactionStatus.IDLE:
            raise Misconfigured(
                "run_each was called inside a transaction, which one item could undo for all; end it first"
            )
        result, dry_run = BatchResult(), self.dry_run
        open_letters = self._open_item_letters()
        total = min(len(items), limit or len(items)) if isinstance(items, Sized) else limit
        transient: list[tuple[T, str, Exception]] = []
        attempted = in_a_row = 0

        def attempt(item: T, name: str) -> Exception | None:
            try:
                outcome = self._run_item(function, item, transactional=transactional)
            except Skipped as exc:
                log.info("%s: item %s: %s", self.name, name, format_cause(exc))
                result.skipped += 1
            except Exception as exc:  # noqa: BLE001 - whatever the function raises
                error = self._item_error(exc)
                log.warning("%s: item %s: %s", self.name, name, format_cause(error))
                if is_transient(error):
                    return error
                result.count_failure(name, error)
                if not dry_run:
                    self._record_item(name, item, error)
            else:
                result.count_success(outcome)
                if name in open_letters and not dry_run:
                    self.resolve_item(name)
            return None

        try:
            for item in items:
                try:
                    name = letter_key(key(item))
                except Exception as exc:  # noqa: BLE001 - whatever `key` raises
                    log.warning("%s: an item has no key: %s", self.name, format_cause(exc))
                    result.count_failure(f"item {attempted + result.skipped + 1}", exc)
                    self.fail_at_end(exc)  # without a key it cannot have a dead letter
                    continue
                if open_letters.get(name) == fingerprint(item):
                    result.skipped += 1
                    continue
                if attempted == limit:
                    result.limit_reached = True
                    break
                if total:
                    self.progress(span[0] + (span[1] - span[0]) * min(1.0, attempted / total), name)
                attempted += 1
                error = attempt(item, name)
                in_a_row = in_a_row + 1 if error is not None else 0
                if error is not None:
                    transient.append((item, name, error))
                    if in_a_row == MAX_CONSECUTIVE_TRANSIENT:
                        result.stopped_early = True
                        break
            for item, name, first in transient:  # once more: a lock that was held or a deadlock has passed by now
                last = first if result.stopped_early else attempt(item, name)
                if last is not None:
                    result.count_failure(name, last)
                    self.fail_at_end(last)
            for row in self._take_unreadable():
                name = letter_key(f"row {next(iter(row.values.values()))}")
                log.warning("%s: %s cannot be read: %s", self.name, name, format_cause(row.error))
                if name in open_letters:
                    result.skipped += 1
                    continue
                error = InvalidInput("row", f"cannot be read: {format_cause(row.error)}")
                result.count_failure(name, error)
                if not dry_run:
                    self._record_item(name, None, error)
        finally:
            self._batch.add(result)
        return result

    def _take_unreadable(self) -> list[UnreadableRow]:
        taken, self._unreadable = self._unreadable, []
        return taken

    def _run_item(self, function: Callable[[T], object], item: T, *, transactional: bool) -> object:
        """Call the function in the item's transaction; TransactionLost if that is not as it was when the function returns."""
        database = self.database
        with database.transaction() if transactional else nullcontext():
            if transactional:
                database.execute(statement("jobs", "lock_timeout_set"), {"seconds": LOCK_TIMEOUT_SECONDS})
            expected = database.info.transaction_status
            outcome = function(item)
            if database.info.transaction_status is not expected:
                raise TransactionLost(
                    "the function ended its transaction, or caught a database error, which undoes all before it"
                )
        return outcome

    def _item_error(self, exc: Exception) -> Exception:
        """Our error for an item's failure, with the session ready for the next item; raises what is not the item's failure."""
        error = translate_error(exc) if isinstance(exc, psycopg.Error) else exc
        if error is not exc:
            error.__cause__ = exc
        if self.database.closed or stops_batch(error):
            raise error from exc
        if self.database.info.transaction_status is not TransactionStatus.IDLE:
            self.database.rollback()
        return error

    def _open_item_letters(self) -> dict[str, str]:
        """Fingerprint by key of the items that have an open dead letter."""
        rows = self.database.execute(statement("dead_letters", "item_list_open"), {"job": self.name}).fetchall()
        return {row["item_key"]: row["item_fingerprint"] for row in rows}

    def _record_item(self, key: str, item: object, error: BaseException) -> None:
        """Record that an item failed permanently: one dead letter for each item, however often it fails."""
        values = {
            "job": self.name, "item_key": key, "item_fingerprint": fingerprint(item), "run_id": self.run_id,
            "class": classify(error), "cause": format_cause(error), "conf": json.dumps(dict(self.conf)),
        }  # fmt: skip
        try:
            self.database.execute(statement("dead_letters", "item_record"), values)
        except psycopg.Error as exc:
            if self.database.closed:
                raise
            log.warning("%s: item %s: its dead letter could not be stored: %s", self.name, key, exc)
            self.fail_at_end(translate_error(exc))

    def resolve_item(self, key: str) -> None:
        """Close the dead letter of an item that has succeeded."""
        self.database.execute(statement("dead_letters", "item_resolve"), {"job": self.name, "item_key": key})

    def fail_at_end(self, error: Exception) -> None:
        """Fail the run with this error once its result has been stored; the first one given counts."""
        self._failure = self._failure or error

    def execute(
        self, function: Callable[..., object], inputs: Mapping[str, object] | None = None, *, store: bool = True
    ) -> Any:
        """Call a job's function, store what it returns as the run's result (unless None), and return it as JSON data.

        `inputs` are further keyword arguments: what other tasks of the run returned.
        """
        with self._resources, translate_errors():
            try:
                value = to_json_data(function(self, **(inputs or {})))
                if store and value is not None:
                    self.results.result(value)
            except Exception as exc:
                self._store_partial_result(exc, store=store)
                if self._failure is not None:  # perhaps a transient one, with which Airflow retries the run
                    raise self._failure from exc
                raise
            if self._failure is not None:
                raise self._failure
            return value

    def _store_partial_result(self, error: Exception, *, store: bool) -> None:
        """Store what `run_each` has done, for a run that fails afterwards: it is committed."""
        if not store or self._batch == BatchResult():
            return
        try:
            self.results.result({"error": format_cause(error), **to_json_data(self._batch)})
        except BacklineError as exc:
            log.warning("%s: the partial result could not be stored: %s", self.name, exc)
