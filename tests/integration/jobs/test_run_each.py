"""`Job.run_each`: a failure affects only its item; permanent ones become one dead letter, transient ones are raised at the end."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import psycopg
import pytest
from psycopg.rows import DictRow, dict_row

from backline.errors import (
    AuthenticationFailed,
    DatabaseFailure,
    InvalidInput,
    Misconfigured,
    NetworkFailure,
    Rejected,
    Skipped,
)
from backline.jobs.batch import MAX_CONSECUTIVE_TRANSIENT, MAX_OUTCOMES, MAX_REPORTED_FAILURES, BatchResult
from backline.jobs.job import Job
from backline.jobs.results import RunRef
from tests.integration.job_factory import create_job, get_result

CREATE = "CREATE TABLE done (item text PRIMARY KEY, value numeric(3))"


@dataclass(frozen=True, slots=True)
class Item:
    """A row of a job."""

    id: int
    value: int = 1


@pytest.fixture(autouse=True)
def connection(database: str) -> Any:
    with psycopg.connect(database, autocommit=True, row_factory=dict_row) as connection:
        connection.execute(CREATE)
        yield connection


def run(dsn: str, items: Iterable[Any], function: Callable[[Job[None], Any], object], **options: Any) -> dict[str, Any]:
    job = create_job(dsn, None)
    returned: dict[str, Any] = job.execute(lambda job: job.run_each(items, lambda item: function(job, item), **options))
    return returned


def write(job: Job[None], item: Any) -> None:
    key, value = (item.id, item.value) if isinstance(item, Item) else (item, 1)
    job.database.execute("INSERT INTO done VALUES (%s, %s)", (str(key), value))


def failing(**errors: Exception) -> Callable[[Job[None], Any], None]:
    def function(job: Job[None], item: Any) -> None:
        write(job, item)
        if (error := errors.get(f"item_{getattr(item, 'id', item)}")) is not None:
            raise error

    return function


def done(connection: psycopg.Connection[DictRow]) -> list[str]:
    return [row["item"] for row in connection.execute("SELECT item FROM done ORDER BY item")]


def letters(connection: psycopg.Connection[DictRow]) -> list[tuple[str, str, int]]:
    rows = connection.execute(
        "SELECT item_key, state, attempts FROM backline.dead_letter WHERE kind = 'item' ORDER BY id"
    )
    return [(row["item_key"], row["state"], row["attempts"]) for row in rows]


JSON_ROWS = """
SELECT id, value FROM (VALUES (1, '1'::jsonb), (2, (repeat('[', 5000) || repeat(']', 5000))::jsonb), (3, '3'::jsonb)) AS v (id, value)
WHERE id > %(after_id)s AND %(batch_limit)s > 0 ORDER BY id
"""


def test_a_row_that_cannot_be_read_is_a_failed_item(database: str, connection: psycopg.Connection[DictRow]) -> None:
    for failed, skipped in ((1, 0), (0, 1)):
        job = create_job(database, None)
        result = job.execute(lambda job: job.run_each(job.scan(JSON_ROWS, Item), lambda _: None))
        assert (result["done"], result["failed"], result["skipped"]) == (2, failed, skipped)
    assert letters(connection) == [("row 2", "open", 1)]


def test_times_that_python_lacks_are_the_nearest_that_it_has(database: str) -> None:
    job = create_job(database, None)
    query = "SELECT unnest('{infinity,-infinity,0044-03-15 BC,10000-01-01,2026-01-01}'::timestamptz[])"
    with job.database.transaction():
        assert [time.year for time in job.rows(query, datetime)] == [9999, 1, 1, 9999, 2026]


def test_a_permanent_failure_affects_only_its_item(database: str, connection: psycopg.Connection[DictRow]) -> None:
    result = run(database, [1, 2, 3], failing(item_2=Rejected("no such customer")))
    assert (result["done"], result["failed"], result["skipped"]) == (2, 1, 0)
    assert result["failures"] == [{"key": "2", "failure_class": "rejected", "reason": "no such customer"}]
    assert done(connection) == ["1", "3"]
    assert letters(connection) == [("2", "open", 1)]
    stored = get_result(database, RunRef("test_job", "run-1"))
    assert stored is not None
    assert stored["result"] == result


@pytest.mark.parametrize(
    "error",
    [
        KeyError("name"),
        ZeroDivisionError(),
        InvalidInput("email", "is empty"),
        RecursionError(),
        LookupError("x" * 9999),
    ],
)
def test_any_other_exception_is_permanent_too(
    database: str, connection: psycopg.Connection[DictRow], error: Exception
) -> None:
    result = run(database, [1, 2], failing(item_1=error))
    assert (result["done"], result["failed"]) == (1, 1)
    assert letters(connection) == [("1", "open", 1)]


def test_a_row_that_the_database_refuses_is_permanent(database: str, connection: psycopg.Connection[DictRow]) -> None:
    result = run(database, [Item(1), Item(2, value=10_000), Item(3)], write)
    assert (result["done"], result["failed"]) == (2, 1)
    assert done(connection) == ["1", "3"]
    assert letters(connection) == [("2", "open", 1)]


def test_an_item_is_left_out_while_its_dead_letter_is_open(
    database: str, connection: psycopg.Connection[DictRow]
) -> None:
    broken = failing(item_2=Rejected("no"))
    run(database, [1, 2], broken)
    connection.execute("DELETE FROM done")
    result = run(database, [1, 2], broken)
    assert (result["done"], result["skipped"], result["failed"]) == (1, 1, 0)
    assert letters(connection) == [("2", "open", 1)]


@pytest.mark.parametrize("state", ["replayed", "discarded"])
def test_a_closed_dead_letter_lets_the_item_be_attempted_again(
    database: str, connection: psycopg.Connection[DictRow], state: str
) -> None:
    run(database, [2], failing(item_2=Rejected("no")))
    connection.execute("UPDATE backline.dead_letter SET state = %s, closed_at = now()", (state,))
    assert run(database, [2], failing(item_2=Rejected("still no")))["failed"] == 1
    assert letters(connection) == [("2", "open", 2)]


def test_a_changed_item_is_attempted_again_and_its_success_resolves_the_letter(
    database: str, connection: psycopg.Connection[DictRow]
) -> None:
    item = Item(2, value=10_000)
    run(database, [item], write)
    assert run(database, [item], write)["skipped"] == 1
    assert run(database, [replace(item, value=7)], write)["done"] == 1
    assert letters(connection) == [("2", "resolved", 1)]


def test_a_transient_failure_is_attempted_once_more(database: str) -> None:
    attempts: list[int] = []

    def busy_once(job: Job[None], item: int) -> None:
        attempts.append(item)
        if attempts == [1]:
            raise DatabaseFailure("deadlock detected")
        write(job, item)

    assert run(database, [1, 2], busy_once)["done"] == 2
    assert attempts == [1, 2, 1]


def test_a_transient_failure_is_raised_after_the_result_was_stored(
    database: str, connection: psycopg.Connection[DictRow]
) -> None:
    with pytest.raises(NetworkFailure, match="no route"):
        run(database, [1, 2, 3], failing(item_2=NetworkFailure("no route")))
    assert done(connection) == ["1", "3"]
    assert letters(connection) == []
    stored = get_result(database, RunRef("test_job", "run-1"))
    assert stored is not None
    assert (stored["result"]["done"], stored["result"]["failed"]) == (2, 1)


def test_a_batch_stops_when_what_it_depends_on_is_away(database: str) -> None:
    attempts: list[int] = []

    def away(_: Job[None], item: int) -> None:
        attempts.append(item)
        raise NetworkFailure("no route")

    with pytest.raises(NetworkFailure):
        run(database, list(range(100)), away)
    assert attempts == list(range(MAX_CONSECUTIVE_TRANSIENT))


@pytest.mark.parametrize("error", [AuthenticationFailed("401"), Misconfigured("orders.page: is wrong")])
def test_what_concerns_the_job_is_no_items_fault(
    database: str, connection: psycopg.Connection[DictRow], error: Exception
) -> None:
    with pytest.raises(type(error)):
        run(database, [1, 2], failing(item_1=error))
    assert letters(connection) == []
    assert done(connection) == []


def test_a_missing_table_is_no_items_fault(database: str, connection: psycopg.Connection[DictRow]) -> None:
    with pytest.raises(Misconfigured, match="no_such_table"):
        run(database, [1, 2], lambda job, _: job.database.execute("SELECT FROM no_such_table"))
    assert letters(connection) == []


def test_a_lost_connection_ends_the_batch(database: str, connection: psycopg.Connection[DictRow]) -> None:
    def killed(job: Job[None], item: int) -> None:
        write(job, item)
        if item == 2:
            connection.execute("SELECT pg_terminate_backend(%s)", (job.database.info.backend_pid,))
            job.database.execute("SELECT 1")

    with pytest.raises(DatabaseFailure):
        run(database, [1, 2, 3], killed)
    assert done(connection) == ["1"]
    assert letters(connection) == []


def test_the_limit_counts_what_is_attempted(database: str, connection: psycopg.Connection[DictRow]) -> None:
    run(database, [1, 2], failing(item_1=Rejected("no"), item_2=Rejected("no")))
    result = run(database, [1, 2, 3, 4, 5], write, limit=2)
    assert (result["skipped"], result["done"], result["limit_reached"]) == (2, 2, True)
    assert done(connection) == ["3", "4"]
    assert not run(database, [6], write, limit=1)["limit_reached"]


def test_outcomes_are_counted_and_failures_named_up_to_a_bound(database: str) -> None:
    def outcome(_: Job[None], item: int) -> str:
        if item % 2:
            raise Rejected(f"{item} is odd")
        return "even"

    result = run(database, list(range(200)), outcome)
    assert (result["outcomes"], result["failed"]) == ({"even": 100}, 100)
    assert len(result["failures"]) == MAX_REPORTED_FAILURES


def test_without_a_transaction_the_function_commits_by_itself(
    database: str, connection: psycopg.Connection[DictRow]
) -> None:
    run(database, [1], failing(item_1=Rejected("after the commit")), transactional=False)
    assert done(connection) == ["1"]


def test_results_of_mapped_tasks_add_up(database: str) -> None:
    one = run(database, [1, 2], failing(item_2=Rejected("no")))
    other = run(database, [3], lambda *_: "kept")
    total = BatchResult.from_results([one, other])
    assert (total.done, total.failed, total.outcomes, total.failures[0].key) == (2, 1, {"kept": 1}, "2")


def test_rows_are_read_page_by_page(database: str, connection: psycopg.Connection[DictRow]) -> None:
    connection.execute("INSERT INTO done SELECT n, n FROM generate_series(1, 7) AS n")
    job = create_job(database, None)
    sql = "SELECT item::int AS id, value::int AS value FROM done WHERE item::int > %(after_id)s ORDER BY item::int LIMIT %(batch_limit)s"
    with job._resources:
        assert [row.id for row in job.scan(sql, Item, page_size=3)] == [1, 2, 3, 4, 5, 6, 7]


def test_progress_is_stored_while_a_batch_runs(database: str) -> None:
    seen = []

    def look(job: Job[None], _: int) -> None:
        job.results._next_write_at = 0  # every call is written
        stored = get_result(database, RunRef("test_job", "run-1"))
        seen.append(stored and (stored["percent"], stored["doing"]))

    run(database, [1, 2, 3, 4], look, span=(50, 100))
    assert seen[1:] == [(62.5, "2"), (75.0, "3"), (87.5, "4")]


# --- hostile items -----------------------------------------------------------------------------------------


class UnprintableError(Exception):
    """Its text cannot be built."""

    def __str__(self) -> str:
        raise ValueError("no text")


@dataclass(frozen=True, slots=True)
class Holder:
    """An item that holds any value."""

    id: str
    value: Any = None


def caught(job: Job[None], item: int) -> str:
    write(job, item)
    if item == 2:
        with contextlib.suppress(psycopg.Error):
            job.database.execute("SELECT 1 / 0")
    return "written"


def caught_and_continued(job: Job[None], item: int) -> None:
    caught(job, item)
    job.database.execute("SELECT 1")


def ended(job: Job[None], item: int) -> None:
    write(job, item)
    if item == 2:
        job.database.execute("ROLLBACK")


def left_open(job: Job[None], item: int) -> None:
    write(job, item)
    if item == 2:
        job.database.execute("ROLLBACK; BEGIN; SELECT 1; ROLLBACK; BEGIN")


def executing(sql: str, *values: Any) -> Callable[[Job[None], int], None]:
    def function(job: Job[None], item: int) -> None:
        write(job, item)
        if item == 2:
            job.database.execute(sql, values)

    return function


HOSTILE = {
    "caught": caught,
    "caught_and_continued": caught_and_continued,
    "ended": ended,
    "raised_in_sql": executing("DO $$ BEGIN RAISE EXCEPTION 'this order is frozen'; END $$"),
    "several_rows": executing("SELECT (SELECT n FROM generate_series(1, 2) AS n)"),
    "nul_in_a_value": executing("SELECT %s::text", "a\0b"),
    "a_value_of_no_sql_type": executing("SELECT %s", object()),
    "text_without_text": failing(item_2=UnprintableError()),
    "nul_in_the_error": failing(item_2=ValueError("a\0b")),
    "surrogate_in_the_error": failing(item_2=ValueError("a\ud800b")),
    "base_error": failing(item_2=RecursionError("too deep")),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_one_hostile_item_affects_only_itself(
    database: str, connection: psycopg.Connection[DictRow], name: str
) -> None:
    result = run(database, [1, 2, 3], HOSTILE[name])
    assert (result["done"], result["failed"]) == (2, 1)
    assert done(connection) == ["1", "3"]
    assert letters(connection) == [("2", "open", 1)]


def test_a_transaction_that_a_function_left_open_does_not_hold_the_next_items(
    database: str, connection: psycopg.Connection[DictRow]
) -> None:
    result = run(database, [1, 2, 3], left_open, transactional=False)
    assert (result["done"], result["failed"]) == (2, 1)
    assert done(connection) == ["1", "2", "3"]  # each committed by itself


def test_any_value_can_be_an_items_data(database: str, connection: psycopg.Connection[DictRow]) -> None:
    loop: list[Any] = []
    loop.append(loop)
    values = ("a\ud800b", "a\0b", float("inf"), object, loop, 10**400)
    items = [Holder(str(number), value) for number, value in enumerate(values)]

    def refuse(_: Job[None], item: Holder) -> None:
        raise Rejected(f"refused {item.id}")

    assert run(database, items, refuse)["failed"] == len(items)
    assert run(database, items, refuse)["skipped"] == len(items), "the same data has the same fingerprint"
    assert len(letters(connection)) == len(items)


def test_keys_that_cannot_be_stored_as_they_are(database: str, connection: psycopg.Connection[DictRow]) -> None:
    long = "x" * 300
    items = [Holder("nul\0"), Holder("half\udc00"), Holder(f"{long}a"), Holder(f"{long}b")]

    def refuse(*_: object) -> None:
        raise Rejected("no")

    assert run(database, items, refuse)["failed"] == 4
    keys = [key for key, _, _ in letters(connection)]
    assert keys[:2] == ["nul\\x00", "half\\udc00"]
    assert len(set(keys)) == 4, "two long keys with the same beginning are two items"
    assert all(len(key) <= 255 for key in keys)
    run(database, items[2:3], lambda *_: None, key=lambda item: item.id)
    changed = [replace(item, value="changed") for item in items[2:3]]
    run(database, changed, lambda *_: None)
    assert [state for _, state, _ in letters(connection)] == ["open", "open", "resolved", "open"]


@pytest.mark.parametrize("key", [lambda item: 1 // (item - 2) and str(item), lambda item: str(item) if item != 2 else "",
                                 lambda item: str(item) if item != 2 else None])  # fmt: skip
def test_an_item_without_a_key_fails_the_run_after_the_others(
    database: str, connection: psycopg.Connection[DictRow], key: Callable[[int], str]
) -> None:
    with pytest.raises((InvalidInput, ZeroDivisionError)):
        run(database, [1, 2, 3], write, key=key)
    stored = get_result(database, RunRef("test_job", "run-1"))
    assert stored is not None
    assert (stored["result"]["failed"], stored["result"]["failures"][0]["key"]) == (1, "item 2")
    assert done(connection) == ["1", "3"]


def test_a_dry_run_leaves_dead_letters_as_they_are(database: str, connection: psycopg.Connection[DictRow]) -> None:
    def dry(item: Item, function: Callable[[Job[None], Any], object]) -> None:
        job = create_job(database, None, params={"dry_run": True})
        job.execute(lambda job: job.run_each([item], lambda item: function(job, item)))

    dry(Item(1), failing(item_1=Rejected("no")))
    assert letters(connection) == []
    run(database, [Item(1)], failing(item_1=Rejected("no")))
    dry(Item(1, value=2), lambda *_: None)
    assert letters(connection) == [("1", "open", 1)]


def test_an_item_that_raises_skipped_is_skipped(database: str, connection: psycopg.Connection[DictRow]) -> None:
    result = run(database, [1, 2], failing(item_1=Skipped("not today")))
    assert (result["done"], result["skipped"], result["failed"]) == (1, 1, 0)
    assert (done(connection), letters(connection)) == (["2"], [])


def test_a_locked_row_delays_its_item_by_seconds_and_no_other(
    database: str, connection: psycopg.Connection[DictRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backline.jobs.job.LOCK_TIMEOUT_SECONDS", 0.2)
    connection.execute("INSERT INTO done VALUES ('locked', 1)")

    def update(job: Job[None], item: int) -> None:
        if item == 2:
            job.database.execute("UPDATE done SET value = 2 WHERE item = 'locked'")
        write(job, item)

    with psycopg.connect(database) as other:
        other.execute("SELECT FROM done WHERE item = 'locked' FOR UPDATE")
        with pytest.raises(DatabaseFailure, match="lock timeout"):
            run(database, [1, 2, 3], update)
    assert done(connection) == ["1", "3", "locked"]


def test_a_negative_limit_and_an_open_transaction_are_refused(
    database: str, connection: psycopg.Connection[DictRow]
) -> None:
    with pytest.raises(InvalidInput, match="limit"):
        run(database, [1], write, limit=-1)
    job = create_job(database, None)

    def nested(job: Job[None]) -> None:
        with job.transaction():
            job.run_each([1], lambda item: write(job, item))

    with pytest.raises(Misconfigured, match="inside a transaction"):
        job.execute(nested)
    assert done(connection) == []


def test_what_was_done_is_stored_when_the_run_fails_later(
    database: str, connection: psycopg.Connection[DictRow]
) -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("the list ended early")

    with pytest.raises(ValueError, match="ended early"):
        run(database, items(), write)
    stored = get_result(database, RunRef("test_job", "run-1"))
    assert stored is not None
    assert stored["result"]["done"] == 1
    assert stored["result"]["error"] == "ValueError: the list ended early"
    assert done(connection) == ["1"]


def test_any_number_of_failures_and_outcomes_fits_the_result(database: str) -> None:
    def fail(_: Job[None], item: int) -> str:
        if item % 2:
            raise Rejected("ж" * 500)
        return f"token_{item}\0"

    result = run(database, list(range(200)), fail)
    stored = get_result(database, RunRef("test_job", "run-1"))
    assert stored is not None
    assert stored["result"] == result
    assert result["failed"] == 100
    assert 0 < len(result["failures"]) <= MAX_REPORTED_FAILURES
    assert sum(result["outcomes"].values()) == 100
    assert len(result["outcomes"]) <= MAX_OUTCOMES + 1
    assert result["outcomes"]["others"] == 100 - MAX_OUTCOMES


def test_a_result_that_is_refused_does_not_hide_a_transient_failure(database: str) -> None:
    def function(job: Job[None]) -> dict[str, object]:
        job.run_each([1], lambda _: (_ for _ in ()).throw(NetworkFailure("no route")))
        return {"api_key": "s3cret"}

    with pytest.raises(NetworkFailure, match="no route"):
        create_job(database, None).execute(function)


@pytest.mark.parametrize("key", [None, "", 5])
def test_a_message_needs_a_key(database: str, key: Any) -> None:
    with pytest.raises(InvalidInput, match="key"):
        create_job(database, None).enqueue("welcome", "ann@example.com", {}, key=key)
