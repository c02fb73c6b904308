"""What a job's function receives: one `Job` object, created by the Airflow adapter in a run and by a fixture in a test."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, LiteralString, Protocol, TypeVar

from psycopg.rows import class_row
from pydantic_core import to_jsonable_python

from backline.db.connect import Session, session, translate_errors
from backline.errors import InvalidInput
from backline.jobs import batch
from backline.jobs.batch import BatchResult, item_key
from backline.jobs.item_dead_letters import ItemDeadLetters
from backline.jobs.results import ResultStore
from backline.outbox import submission

if TYPE_CHECKING:
    from backline.channels.http import HttpGateway
    from backline.dead_letters.alerts import AlertSender
    from backline.dead_letters.runs import AirflowRuns
    from backline.payments.provider import Provider

T = TypeVar("T")
Row = TypeVar("Row")
SettingsT_co = TypeVar("SettingsT_co", covariant=True)
PAGE_SIZE = 500


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


class Params(Mapping[str, object]):
    """The run's params, as the DAG file declares them."""

    def __init__(self, values: Mapping[str, object], declared: Iterable[str] | None = None) -> None:
        """InvalidInput names a key that is not among the declared ones."""
        self._values = dict(values)
        known = set(self._values if declared is None else declared)
        if unknown := sorted(set(self._values) - known):
            names = ", ".join(sorted(known)) or "none"
            raise InvalidInput(f"conf.{unknown[0]}", f"is not a parameter of this job; use one of: {names}")

    def __getitem__(self, name: str) -> object:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def required(self, name: str, kind: type[T]) -> T:
        """The value, which must be of that type; InvalidInput if it is not, or is not set."""
        value = self.optional(name, kind)
        if value is None:
            raise InvalidInput(f"conf.{name}", f"is required: give {_DESCRIPTIONS.get(kind, kind.__name__)}")
        return value

    def optional(self, name: str, kind: type[T]) -> T | None:
        """The value, or None if it is not set; InvalidInput if it is of another type."""
        value = self._values.get(name)
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
    """The section of the function's domain."""
    params: Params
    now: datetime
    """The time of the run: one clock for all that it decides."""
    dsn: str
    """Of the app's database; functions use `database`."""
    results: ResultStore
    clients: Clients
    alert_recipients: tuple[str, ...] = ()
    """Email addresses of the operators."""
    conf: Mapping[str, Any] = field(default_factory=dict)
    _resources: ExitStack = field(default_factory=ExitStack)
    _database: Session | None = None
    _failure: Exception | None = None

    @property
    def database(self) -> Session:
        """A session on the app's database, in autocommit, opened on first use and closed with the job."""
        if self._database is None:
            self._database = self._resources.enter_context(session(self.dsn, name=self.name))
        return self._database

    @property
    def dead_letters(self) -> ItemDeadLetters:
        """The dead letters of this job's items."""
        return ItemDeadLetters(self.database, self.name, self.run_id, self.conf)

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
        payload: Mapping[str, Any],
        *,
        key: str,
        due_at: datetime | None = None,
    ) -> int:
        """Enqueue one message in the current transaction, once for its key; returns its id. InvalidInput names a wrong field."""
        return submission.enqueue(self.database, type_name, recipient, payload, key=key, due_at=due_at)

    def enqueue_many(self, messages: Sequence[submission.NewMessage]) -> list[int]:
        """Enqueue messages in the current transaction, set-based; returns their ids in the order given."""
        return submission.enqueue_many(self.database, messages)

    def rows(self, sql: LiteralString, row: type[Row], params: Mapping[str, Any] | None = None) -> list[Row]:
        """All rows of a statement, each as an instance of the dataclass `row`."""
        with translate_errors(), self.database.cursor(row_factory=class_row(row)) as cursor:
            return cursor.execute(sql, params).fetchall()

    def scan(
        self, sql: LiteralString, row: type[Row], params: Mapping[str, Any] | None = None, *, page_size: int = PAGE_SIZE
    ) -> Iterator[Row]:
        """The rows of a statement page by page: it takes `after_id` and `batch_limit`, and its rows have an ascending `id`.

        A page is read when the one before has been worked off, so rows that were handled meanwhile do not come again.
        """
        after_id = 0
        while True:
            page = self.rows(sql, row, {**(params or {}), "after_id": after_id, "batch_limit": page_size})
            yield from page
            if len(page) < page_size:
                return
            after_id = page[-1].id  # type: ignore[attr-defined]

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

        `function` may return a word for the outcome, which is counted. A permanent failure becomes one dead letter of the
        item (this job and the item's key), and the item is left out until the letter is replayed or discarded or the item's
        data changes; the run goes on and succeeds. Transient failures are attempted once more at the end; what still fails
        is raised after the run's result has been stored, so that Airflow retries what is left. A wrong setting and refused
        credentials stop the batch at once.

        `limit`: at most so many items are attempted. `transactional=False`: `function` commits by itself, for work that
        must be on disk before a provider is called. `span`: the range of the run's progress that this batch covers, percent.
        """
        return batch.run_batch(self, items, function, key=key, limit=limit, transactional=transactional, span=span)

    def fail_at_end(self, error: Exception) -> None:
        """Fail the run with this error once its result has been stored; the first one given counts."""
        self._failure = self._failure or error

    def execute(
        self, function: Callable[..., object], inputs: Mapping[str, Any] | None = None, *, store: bool = True
    ) -> Any:
        """Call a job's function, store its return value as the run's result, and return it as JSON-compatible data.

        `inputs` are further keyword arguments: what other tasks of the run returned. None is stored as no result. The
        driver's errors are raised as Backline's.
        """
        with self._resources, translate_errors():
            returned = function(self, **(inputs or {}))
            value = to_jsonable_python(returned, inf_nan_mode="strings")
            if store and value is not None:
                self.results.result(value)
            if self._failure is not None:
                raise self._failure
            return value
