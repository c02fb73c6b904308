"""The growth bench in small: its cases have the stated rows, no message is lost, and drops are computed."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from backline.errors import UnknownFailure
from bench import growth
from tests.integration.conftest import create, drop

CASES = (
    growth.TableState("few", 700),
    growth.TableState("scheduled", 700, scheduled=3_000),
    growth.TableState("finished", 700, finished=4_000),
)


@pytest.fixture
def databases(server: str, template: str) -> Iterator[dict[growth.TableState, str]]:
    names = {case: f"backline_growth_{uuid.uuid4().hex[:8]}" for case in CASES}
    for name in names.values():
        create(server, name, template)
    yield {case: make_conninfo(server, dbname=name) for case, name in names.items()}
    for name in names.values():
        drop(server, name)


def test_it_measures_every_case_and_loses_nothing(databases: dict[growth.TableState, str]) -> None:
    found = growth.measure(databases, 2, 2, 3, lambda _: None)
    assert list(found.metrics)[:2] == ["drop_pct", "snapshot_drop_pct"]
    assert set(found.raw["rates"]) == {"few", "scheduled", "finished"}
    for case, dsn in databases.items():
        with psycopg.connect(dsn) as connection:
            states: dict[str, int] = dict(
                connection.execute("SELECT state, count(*) FROM backline.message GROUP BY 1").fetchall()
            )
            attempts = connection.execute(
                "SELECT count(*), count(DISTINCT message_id) FROM backline.attempt"
            ).fetchone()
            indexes = connection.execute(
                "SELECT count(*) FROM pg_indexes WHERE indexname IN ('message_created', 'attempt_message')"
            ).fetchone()
        done = case.finished + (3 + 2 * 2 + 3) * growth.BATCH_SIZE
        expected = {"pending": 700, "sent": done, **({"scheduled": 3_000} if case.scheduled else {})}
        assert states == expected
        assert attempts == (done, done)
        assert indexes == (2,)
        assert found.raw["weights"][case.name]["payload_bytes"] >= 500


def test_plans_are_of_the_engines_own_statements(databases: dict[growth.TableState, str]) -> None:
    case, dsn = next(iter(databases.items()))
    growth.fill_table(dsn, case)
    plans = growth.explain_statements(dsn)
    assert set(plans) == {"message_promote", "message_claim", "lane_status", "message_complete_many"}
    assert "message_claim" in plans["message_claim"]
    assert all("Buffers" in plan for plan in plans.values())


def test_a_missing_message_is_an_error(databases: dict[growth.TableState, str]) -> None:
    case, dsn = next(iter(databases.items()))
    growth.fill_table(dsn, case)
    with psycopg.connect(dsn) as connection:
        connection.execute("DELETE FROM backline.message WHERE id % 100 = 0")
    with psycopg.connect(dsn) as connection, pytest.raises(UnknownFailure, match="sent, pending and attempts"):
        growth.verify_completed(connection, case, 0)


def test_a_drop_is_relative_to_the_first_case_and_under_the_snapshot_to_its_own() -> None:
    plain = {"few": [0.1, 0.1, 9.0], "many": [0.2, 0.2, 0.2]}
    held = {"few": [0.1, 0.3], "many": [0.2, 0.2]}
    found = growth.build_result(plain, held, {})
    assert found.metrics["drop_pct"] == pytest.approx(50.0)
    assert found.metrics["snapshot_drop_pct"] == pytest.approx(50.0)
