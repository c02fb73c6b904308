"""`Job.run_each`: a failure affects only its item; permanent ones become one dead letter, transient ones are raised at the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import psycopg
import pytest
from psycopg.rows import DictRow, dict_row

from backline.errors import AuthenticationFailed, DatabaseFailure, InvalidInput, Misconfigured, NetworkFailure, Rejected
from backline.jobs.batch import MAX_CONSECUTIVE_TRANSIENT, MAX_REPORTED_FAILURES, BatchResult
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


def run(dsn: str, items: list[Any], function: Callable[[Job[None], Any], object], **options: Any) -> dict[str, Any]:
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
