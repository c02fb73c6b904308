"""Connections to the app's database, with the driver's errors translated: a plain one, and one that reconnects."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import MISSING, dataclass, fields, is_dataclass
from datetime import UTC, datetime, timedelta
from functools import cache, partial
from typing import Any, LiteralString, Protocol, TypeAlias, TypeVar, cast

import psycopg
from psycopg.adapt import Buffer, Loader
from psycopg.pq import Format
from psycopg.rows import BaseRowFactory, DictRow, dict_row, scalar_row
from psycopg.types.json import set_json_loads
from pydantic_core import from_json, to_json

from backline.errors import BacklineError, DatabaseFailure, InvalidInput, Misconfigured

log = logging.getLogger(__name__)

LOCK_NOT_AVAILABLE = "55P03"
TRANSIENT_SQLSTATES = frozenset({
    "40001", "40P01",                      # serialization failure, deadlock
    "08000", "08001", "08003", "08004", "08006",  # connection
    "53000", "53100", "53200", "53300",    # out of disk, memory, connections
    LOCK_NOT_AVAILABLE, "57014", "57P01", "57P02", "57P03",  # lock not available, cancelled, shutting down, starting up
})  # fmt: skip
INVALID_PARAMETER_VALUE = "22023"
UNIQUE_VIOLATION = "23505"
_OUR_PREFIX = "backline"
ROW_ERRORS = (
    psycopg.DataError, psycopg.IntegrityError, psycopg.errors.RaiseException, psycopg.errors.ProgramLimitExceeded,
)  # fmt: skip
"""About a value or a check, such as one that is too long for an index; not about the database or the statement."""
UNREADABLE = "(cannot be read)"
"""The key under which JSON that cannot be read is shown as text."""
MAX_UNREADABLE_LENGTH = 10_000
PLAN_MAX_AGE_SECONDS = 5.0
"""How old the plan of a prepared statement may get. A plan made while a table was empty scans all of it; without this
limit it would be kept until autovacuum's next run, a minute or more, however large the table has grown."""
_DISCARD_PLANS: LiteralString = "DISCARD PLANS"  # cannot be PREPAREd, so it is not a named statement

Session: TypeAlias = psycopg.Connection[DictRow]
Row = TypeVar("Row")


def translate_error(exc: psycopg.Error) -> BacklineError:
    """Our error for a driver's error: InvalidInput if enqueue raised it, DatabaseFailure for a transient state."""
    state = exc.sqlstate
    text = exc.diag.message_primary or str(exc).strip()
    field = exc.diag.column_name
    if state in (INVALID_PARAMETER_VALUE, UNIQUE_VIOLATION) and text.startswith(_OUR_PREFIX) and field:
        return InvalidInput(field, text.partition(f": {field}: ")[2] or text)
    if state in TRANSIENT_SQLSTATES or (state is None and isinstance(exc, psycopg.OperationalError)):
        return DatabaseFailure(f"database: {text}", code=state)
    return Misconfigured(f"database: {text}", code=state)


def is_about_a_row(exc: BacklineError) -> bool:
    """Whether a statement failed because of one of its rows."""
    return isinstance(exc.__cause__, ROW_ERRORS)


def to_storable(text: str) -> str:
    """Text without what PostgreSQL and logs cannot take, NUL and lone surrogates: those are written as escapes."""
    if text.isprintable():
        return text
    return text.encode("utf-8", "backslashreplace").decode().replace("\x00", "\\x00")


def readable_json(text: str | None) -> Any:
    """The value of a JSON column that was fetched as text; one that Python, or JSON without NaN, cannot hold as `UNREADABLE`."""
    try:
        found = None if text is None else from_json(text)
        if to_json(found, inf_nan_mode="strings") == to_json(found):
            return found
    except ValueError:  # too deep, or a number of too many digits
        pass
    return {UNREADABLE: (text or "")[:MAX_UNREADABLE_LENGTH]}


@contextmanager
def translate_errors() -> Iterator[None]:
    """Raise our errors in place of the driver's."""
    try:
        yield
    except psycopg.Error as exc:
        raise translate_error(exc) from exc


# What psycopg's parsers and Backline's SQL rely on; a role or database may have other defaults. The server reports each.
_REQUIRED_SETTINGS = {"DateStyle": "ISO", "IntervalStyle": "postgres", "standard_conforming_strings": "on"}
_FIX_SETTINGS: LiteralString = (
    "SELECT set_config('datestyle', 'ISO, MDY', false), set_config('intervalstyle', 'postgres', false),"
    " set_config('standard_conforming_strings', 'on', false)"
)


def prepare_connection(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> LiteralString | None:
    """Let a new connection read every date and time; returns the statement to run if its formats are not those that we parse."""
    for name in ("date", "time", "timestamp", "timestamptz", "interval"):
        connection.adapters.register_loader(name, _bounded_loader(name))
    known = {name: connection.info.parameter_status(name) or "" for name in _REQUIRED_SETTINGS}
    right = all(known[name].startswith(value) for name, value in _REQUIRED_SETTINGS.items())
    return None if right else _FIX_SETTINGS


# Within these, a time can be converted to any zone.
_FIRST, _LAST = datetime(1, 1, 2), datetime(9999, 12, 30)  # noqa: DTZ001 - of each type below
_NEAREST: Mapping[str, tuple[object, object]] = {
    "date": (_FIRST.date(), _LAST.date()),
    "timestamp": (_FIRST, _LAST),
    "timestamptz": (_FIRST.replace(tzinfo=UTC), _LAST.replace(tzinfo=UTC)),
    "interval": (timedelta.min, timedelta.max),
}


@cache
def _bounded_loader(name: str) -> type[Loader]:
    """Loads a type of which PostgreSQL has values that Python lacks as the nearest that Python has.

    Infinity and the years after 9999 are the end of 9999, -infinity and BC the beginning of year 1; 24:00 is 00:00. One such
    value in a row would otherwise fail the reading of all rows.
    """
    oid = psycopg.adapters.types[name].oid
    exact = cast("type[Loader]", psycopg.adapters.get_loader(oid, Format.TEXT))

    class BoundedLoader(Loader):
        def __init__(self, oid: int, context: Any = None) -> None:
            super().__init__(oid, context)
            self._load = exact(oid, context).load

        def load(self, data: Buffer) -> Any:
            try:
                return self._load(data)
            except (psycopg.DataError, OverflowError):
                text = bytes(data).decode()
                if name == "time":
                    return datetime.min.time()
                return _NEAREST[name][0 if text.startswith("-") or text.endswith("BC") else 1]

    return BoundedLoader


@contextmanager
def session(dsn: str, *, name: str, connect_timeout: int = 5) -> Iterator[Session]:
    """A connection in autocommit for short work, closed at the end; errors are translated, those of the body too."""
    with (
        translate_errors(),
        psycopg.connect(
            dsn,
            autocommit=True,
            row_factory=dict_row,
            connect_timeout=connect_timeout,
            application_name=f"backline {name}"[:63],
        ) as connection,
    ):
        if fix := prepare_connection(connection):
            connection.execute(fix)
        yield connection


def fetch(
    connection: psycopg.Connection[Any], sql: LiteralString, row: type[Row], params: Mapping[str, object] | None = None
) -> list[Row]:
    """The rows of a statement, none if it returns nothing: each as the dataclass `row`, or of one column as a value of that type."""
    with connection.cursor(row_factory=_row_factory(row)) as cursor:
        cursor.execute(sql, params)
        return cursor.fetchall() if cursor.description else []


@dataclass(frozen=True, slots=True)
class UnreadableRow:
    """A row of which Python cannot hold a value: JSON that is too deep or has too many digits, for example."""

    values: Mapping[str, str | None]
    """By column, as text."""
    error: Exception


def fetch_each(
    connection: psycopg.Connection[Any], sql: LiteralString, row: type[Row], params: Mapping[str, object] | None = None
) -> list[Row | UnreadableRow]:
    """As `fetch`, but a row that cannot be read affects only itself."""
    with connection.cursor(row_factory=_row_factory(row)) as cursor:
        cursor.execute(sql, params)
        if not cursor.description:
            return []
        names = [column.name for column in cursor.description]
        rows: list[Row | UnreadableRow] = []
        for position in range(cursor.rowcount):
            try:
                rows += cursor.fetchmany(1)
            except (psycopg.DataError, ValueError, OverflowError, RecursionError) as exc:
                rows.append(UnreadableRow(_row_as_text(cursor, names, position), exc))
                cursor.scroll(position + 1, "absolute")
        return rows


def _row_as_text(cursor: psycopg.Cursor[Any], names: Sequence[str], position: int) -> dict[str, str | None]:
    if (result := cursor.pgresult) is None:
        return {}
    values = [result.get_value(position, index) for index in range(len(names))]
    return {name: None if value is None else value.decode() for name, value in zip(names, values, strict=True)}


def fetch_one(
    connection: psycopg.Connection[Any], sql: LiteralString, row: type[Row], params: Mapping[str, object] | None = None
) -> Row | None:
    """As `fetch`, the first row or None."""
    return next(iter(fetch(connection, sql, row, params)), None)


def _row_factory(row: type[Row]) -> BaseRowFactory[Row]:
    return partial(_dataclass_row, row) if is_dataclass(row) else scalar_row


def _dataclass_row(
    row: type[Row], cursor: psycopg.Cursor[Any] | psycopg.AsyncCursor[Any]
) -> Callable[[Sequence[Any]], Row]:
    """As psycopg's class_row, but columns without a field are left out: an app's own statement may return more."""
    names = [column.name for column in cursor.description or ()]
    known, required = _field_names(cast("Hashable", row))
    if missing := required - set(names) if names else ():
        raise Misconfigured(f"the statement's result has no column {min(missing)!r}; add it to the statement")
    if known.issuperset(names):
        return lambda values: row(**dict(zip(names, values, strict=True)))
    used = [(index, name) for index, name in enumerate(names) if name in known]
    return lambda values: row(**{name: values[index] for index, name in used})


@cache
def _field_names(row: Hashable) -> tuple[frozenset[str], frozenset[str]]:
    """Names of all fields of a dataclass, and of those without a default."""
    required = (
        each.name for each in fields(cast("Any", row)) if each.default is MISSING and each.default_factory is MISSING
    )
    return frozenset(each.name for each in fields(cast("Any", row))), frozenset(required)


class Execute(Protocol):
    """Runs a statement and returns its rows, as `fetch`."""

    async def __call__(
        self, sql: LiteralString, row: type[Row], params: Mapping[str, object] | None = None
    ) -> list[Row]:
        """The rows; our errors."""


class Database:
    """One asynchronous connection in autocommit, opened on first use and reopened after it breaks.

    A statement is retried for `retry_timeout` seconds, so it must be safe to run twice. A function as `dsn` is called each time
    it connects: the password may have changed.
    """

    def __init__(
        self, dsn: str | Callable[[], str | Awaitable[str]], *, name: str, retry_timeout: float = 20.0
    ) -> None:
        self._dsn = dsn
        self._name = name
        self._retry_timeout = retry_timeout
        self._connection: psycopg.AsyncConnection[Any] | None = None
        self._planned_at = 0.0
        self._lock = asyncio.Lock()

    async def fetch(self, sql: LiteralString, row: type[Row], params: Mapping[str, object] | None = None) -> list[Row]:
        """The rows of one statement, as the function `fetch`; DatabaseFailure after `retry_timeout`."""
        async with self._lock:
            deadline = time.monotonic() + self._retry_timeout
            delay = 0.05
            while True:
                try:
                    with translate_errors():
                        return await _execute(await self._open(), sql, row, params)
                except DatabaseFailure as exc:
                    await self.close()
                    if time.monotonic() + delay > deadline:
                        raise
                    log.warning("%s: %s; retrying in %.1f s", self._name, exc, delay)
                    await asyncio.sleep(delay)
                    delay = min(delay * 2, 2.0)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Execute]:
        """One transaction, without retry: `async with database.transaction() as run: await run(sql, row, params)`."""
        async with self._lock:
            try:
                with translate_errors():
                    connection = await self._open()
                    async with connection.transaction():
                        yield partial(_execute, connection)
            except DatabaseFailure:
                await self.close()
                raise

    async def _open(self) -> psycopg.AsyncConnection[Any]:
        if self._connection is None or self._connection.closed:
            dsn = self._dsn if isinstance(self._dsn, str) else self._dsn()
            self._connection = await psycopg.AsyncConnection.connect(
                dsn if isinstance(dsn, str) else await dsn,
                autocommit=True,
                application_name=f"backline {self._name}"[:63],
            )
            if fix := prepare_connection(self._connection):
                await self._connection.execute(fix)
            set_json_loads(from_json, self._connection)  # twice as fast as the standard library's
            self._planned_at = time.monotonic()
        elif time.monotonic() - self._planned_at > PLAN_MAX_AGE_SECONDS:
            await self._connection.execute(_DISCARD_PLANS)
            self._planned_at = time.monotonic()
        return self._connection

    async def close(self) -> None:
        """Close the connection, which the next use reopens; never raises."""
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                await connection.close()
            except psycopg.Error as exc:
                log.debug("%s: closing a broken connection: %s", self._name, exc)


async def _execute(
    connection: psycopg.AsyncConnection[Any],
    sql: LiteralString,
    row: type[Row],
    params: Mapping[str, object] | None = None,
) -> list[Row]:
    cursor = connection.cursor(row_factory=_row_factory(row))
    await cursor.execute(sql, params)
    return await cursor.fetchall() if cursor.description else []
