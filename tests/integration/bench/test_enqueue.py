"""The enqueue bench in small: every message that it counts is stored exactly once."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from backline.errors import UnknownFailure
from backline.settings import ROOT
from bench import enqueue
from stack.paths import Paths
from stack.postgres import Cluster
from stack.secrets import Secrets

LOSSY_TRIGGER = """
CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TRIGGER lossy BEFORE INSERT ON backline.message FOR EACH ROW WHEN (new.id % 7 = 0) EXECUTE FUNCTION lose();
"""


def ignore_report(_: str) -> None:
    pass


@pytest.fixture(scope="session")
def pgbench() -> Path:
    return Cluster(Paths(ROOT, ROOT, 8080), Secrets()).binary_folder() / "pgbench"


def test_both_sides_take_turns_and_all_messages_are_pending(database: str) -> None:
    calls = []

    def peer(name: str, count: int) -> float:
        calls.append((name, count))
        return 0.5

    rates = enqueue.measure_set_based(database, {"backline": 1_200, "celery": 50}, 2, peer, ignore_report)
    assert calls == [("celery", 50)] * 2
    assert rates["celery"] == [100.0, 100.0]
    assert all(rate > 0 for rate in rates["backline"])
    with psycopg.connect(database) as connection:
        row = connection.execute("SELECT count(*), count(DISTINCT payload) FROM backline.message").fetchone()
    assert row == (2_400, 2_400)


def test_it_fails_when_messages_are_missing(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(LOSSY_TRIGGER)
    with pytest.raises(UnknownFailure, match="pending messages and recipients instead of"):
        enqueue.measure_set_based(database, {"backline": 100}, 1, lambda *_: 1.0, ignore_report)


def test_a_commit_writes_an_order_and_one_second_row(database: str, pgbench: Path, tmp_path: Path) -> None:
    rates = enqueue.measure_commit_rates(pgbench, database, tmp_path, 1, 3, ignore_report)
    assert set(rates) == {"plain", "backline"}
    assert all(rate > 0 for [rate] in rates.values())
    with psycopg.connect(database) as connection:
        ours, plain = (
            connection.execute(query).fetchone()
            for query in (
                "SELECT type, payload #>> '{context,name}' = 'Reader ' || (payload #>> '{context,number}') FROM backline.message",
                "SELECT type, payload #>> '{context,name}' = 'Reader ' || (payload #>> '{context,number}') FROM shop.plain_outbox",
            )
        )
    assert ours == plain == ("templated_email", True)


def test_a_failed_transaction_is_an_error(database: str, pgbench: Path, tmp_path: Path) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("DELETE FROM backline.message_type")
    with pytest.raises(UnknownFailure, match="is not a message type"):
        enqueue.measure_commit_rates(pgbench, database, tmp_path, 1, 3, ignore_report)


def test_ratios_are_of_the_same_round() -> None:
    rates = {
        "backline": [100.0, 400.0, 300.0],
        "celery": [10.0, 20.0, 10.0],
        "procrastinate": [50.0] * 3,
        "pgqueuer": [50.0] * 3,
    }
    found = enqueue.build_result(rates, {"plain": [10.0, 20.0, 10.0], "backline": [8.0, 10.0, 7.0]})
    assert found.metrics["ratio_sql"] == 20.0
    assert found.metrics["ratio_commit"] == 0.7
    assert found.summary_line().startswith("bench enqueue: ratio_sql=20 ratio_commit=0.7 ")
