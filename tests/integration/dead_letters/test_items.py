"""Dead letters of single items of a job: listed, replayed, discarded, exported and reported like all others."""

from __future__ import annotations

import csv
import io
import json
import sys

import pytest

from backline.cli.__main__ import run as run_command
from backline.dead_letters.actions import discard, discard_bulk, replay, replay_bulk
from backline.dead_letters.alerts import Alert, AlertSender, send_due_alerts
from backline.dead_letters.export import export
from backline.dead_letters.settings import DeadLetterSettings
from backline.dead_letters.store import DeadLetterStore, Filter
from backline.errors import InvalidInput, NetworkFailure, Rejected
from backline.settings import AlertSettings
from tests.integration.dead_letters.support import FakeAirflow, record_failure
from tests.integration.job_factory import create_job

JOB = "charge_orders"
ITEMS = Filter(kind="item")


def charge(database: str, *failing: int, run_id: str = "r1", conf: dict[str, object] | None = None) -> list[int]:
    """One run of a job with the items 1 to 4, of which some fail for good; returns those that it attempted."""
    attempted: list[int] = []

    def process(order: int) -> None:
        attempted.append(order)
        if order in failing:
            raise Rejected(f"order {order} has no card")

    job = create_job(database, None, name=JOB, run_id=run_id, params={"days": 1} if conf is None else conf)
    job.execute(lambda current: current.run_each([1, 2, 3, 4], process))
    return attempted


def ids(store: DeadLetterStore, wanted: Filter = ITEMS) -> dict[str, int]:
    """The dead letters' ids by item key."""
    return {row["item_key"]: row["id"] for row in store.iterate(wanted)}


def test_an_item_is_listed_and_shown(database: str, store: DeadLetterStore) -> None:
    record_failure(store)
    charge(database, 2)
    [listed] = store.iterate(ITEMS)
    assert (listed["name"], listed["item_key"], listed["run_id"], listed["conf"]) == (JOB, "2", "r1", {"days": 1})
    shown = store.get(listed["id"])
    assert (shown["class"], shown["cause"], shown["state"]) == ("rejected", "order 2 has no card", "open")
    [group] = [group for group in store.failure_groups(shown["failed_at"]) if group["kind"] == "item"]
    assert (group["name"], group["failures"], group["open"]) == (JOB, 1, 1)


def test_a_replay_starts_a_run_that_takes_the_item_again(
    database: str, store: DeadLetterStore, airflow: FakeAirflow
) -> None:
    charge(database, 2, 3)
    assert charge(database, 2, 3) == [1, 4], "failed items are left out"
    letter_id = ids(store)["2"]
    done = replay(store, airflow, letter_id, by="ann", reason="card added")
    [(run, conf)] = airflow.started.items()
    assert (done.reference, conf) == (f"run {run}", {"days": 1})
    assert airflow.notes[run] == f"Replay of dead letter {letter_id}: {JOB}/r1, item 2, by ann (card added)"
    letter = store.get(letter_id)
    assert (letter["state"], letter["closed_by"], letter["replay_ref"]) == ("replayed", "ann", done.reference)
    assert charge(database) == [1, 2, 4]
    assert store.get(letter_id)["state"] == "replayed"


def test_an_item_can_be_replayed_with_another_conf(database: str, store: DeadLetterStore, airflow: FakeAirflow) -> None:
    charge(database, 2)
    letter_id = ids(store)["2"]
    with pytest.raises(InvalidInput, match=r"edited\.day: charge_orders has no such parameter"):
        replay(store, airflow, letter_id, by="ann", edited={"day": 2})
    assert store.get(letter_id)["state"] == "open"
    replay(store, airflow, letter_id, by="ann", edited={"days": 2})
    assert list(airflow.started.values()) == [{"days": 2}]


def test_an_item_that_fails_after_its_replay_is_open_again(
    database: str, store: DeadLetterStore, airflow: FakeAirflow
) -> None:
    charge(database, 2)
    letter_id = ids(store)["2"]
    replay(store, airflow, letter_id, by="ann")
    charge(database, 2, run_id="r2")
    again = store.get(letter_id)
    assert (again["state"], again["attempts"], again["run_id"], again["alerted_at"]) == ("open", 2, "r2", None)
    replay(store, airflow, letter_id, by="ann")
    assert len(airflow.started) == 2


def test_if_airflow_is_not_available_the_item_stays_open(
    database: str, store: DeadLetterStore, airflow: FakeAirflow
) -> None:
    charge(database, 2, 3)
    airflow.unavailable = True
    with pytest.raises(NetworkFailure):
        replay(store, airflow, ids(store)["2"], by="ann")
    assert len(replay_bulk(store, airflow, ITEMS, by="ann", dry_run=False).failed) == 2
    assert {row["state"] for row in store.iterate(ITEMS)} == {"open"}


def test_items_of_one_job_and_conf_are_replayed_by_one_run(
    database: str, store: DeadLetterStore, airflow: FakeAirflow
) -> None:
    charge(database, 2, 3)
    charge(database, 2, 3, 4, conf={"days": 7})
    assert len(ids(store)) == 3
    done = replay_bulk(store, airflow, ITEMS, by="ann", dry_run=False)
    assert done.done == sorted(ids(store).values())
    assert sorted(conf["days"] for conf in airflow.started.values()) == [1, 7]
    assert sorted(note.partition(":")[0] for note in airflow.notes.values()) == [
        f"Replay of dead letter {ids(store)['2']} and 1 more",
        f"Replay of dead letter {ids(store)['4']}",
    ]
    assert {row["state"] for row in store.iterate(ITEMS)} == {"replayed"}
    assert charge(database) == [1, 2, 3, 4]


def test_a_discarded_item_is_attempted_by_the_next_run(
    database: str, store: DeadLetterStore, airflow: FakeAirflow
) -> None:
    charge(database, 2, 3)
    discard(store, ids(store)["2"], by="ann", reason="paid by hand")
    assert charge(database, 3) == [1, 2, 4]
    assert discard_bulk(store, ITEMS, by="ann", reason="the rest", dry_run=False).done == [ids(store)["3"]]
    assert charge(database) == [1, 2, 3, 4]
    assert airflow.started == {}


def test_items_are_exported(database: str, store: DeadLetterStore) -> None:
    charge(database, 2)
    [row] = csv.DictReader(io.StringIO("".join(export(store.iterate(ITEMS), "csv")), newline=""))
    assert (row["kind"], row["name"], row["item_key"], row["cause"]) == ("item", JOB, "2", "order 2 has no card")


def test_items_are_reported_in_one_email(database: str, store: DeadLetterStore) -> None:
    charge(database, 2, 3)
    sent: list[Alert] = []
    sender = AlertSender(AlertSettings(recipients=("ops@example.com",)), "http://airflow.test", sent.append)
    create_job(database, DeadLetterSettings(), alerts=sender).execute(send_due_alerts)
    [mail] = sent
    assert mail.subject == f"[Backline] an item of {JOB} failed (rejected), 2 times"
    for part in ("order 3 has no card", "2, in r1", "3, in r1", f"dead-letters replay {ids(store)['2']}"):
        assert part in mail.html


def test_items_in_the_command(
    database: str, store: DeadLetterStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    charge(database, 2)
    letter_id = ids(store)["2"]
    monkeypatch.setenv("BACKLINE_DATABASE_URL", database)

    def command(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["backline", *arguments])
        assert run_command() == 0
        return capsys.readouterr().out

    assert f"item {JOB} 2" in command("dead-letters", "list", "--kind", "item")
    assert json.loads(command("dead-letters", "show", str(letter_id), "--json"))["item_key"] == "2"
    assert f"item {JOB}" in command("failures")
    assert f"1 would be discarded: {letter_id}" in command(
        "dead-letters", "discard", "--all", "--kind", "item", "--reason", "x"
    )
    assert command("dead-letters", "discard", str(letter_id), "--reason", "x") == f"{letter_id} discarded\n"
    assert "No dead letters match" in command("dead-letters", "list", "--kind", "item")
