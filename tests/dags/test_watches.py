"""DAGs that a watch starts: one trigger per watch, all on one stream, and a staggered cron besides."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG, AssetOrTimeSchedule
from airflow.sdk._shared.module_loading import import_string
from airflow.serialization.serialized_objects import DagSerialization
from croniter import croniter

from backline.airflow.dispatch import dispatch_dag_id
from backline.airflow.poller import FAILURE_WATCH, PollTrigger, lane_watch, watch_schedule
from backline.db.statements import PARAMETER, statement
from backline.errors import Misconfigured
from backline.settings import ROOT, load

SETTINGS = load(ROOT / "include" / "config" / "backline.toml")
WATCHES = {*map(lane_watch, SETTINGS.lanes), *SETTINGS.watches, FAILURE_WATCH}


@pytest.fixture(scope="module")
def dags() -> dict[str, DAG]:
    return dict(DagBag(ROOT / "dags").dags)


def serialized_triggers(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "trigger":
                yield inner
            yield from serialized_triggers(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from serialized_triggers(inner)


def watches_of(dag: DAG) -> list[str]:
    """The watches that start a DAG, as Airflow stores them."""
    stored = json.loads(json.dumps(DagSerialization.to_dict(dag), default=str))
    found = list(serialized_triggers(stored))
    assert all(trigger["classpath"] == "backline.airflow.poller.PollTrigger" for trigger in found)
    return [str(trigger["kwargs"]["watch"]) for trigger in found]


def start_minutes(dag: DAG) -> list[Any]:
    """The minutes of the hour in which its cron starts it; empty without a cron."""
    cron = getattr(getattr(dag.schedule, "timetable", dag.timetable), "expression", None)
    return [] if cron is None else croniter.expand(cron)[0][0]


def test_every_watch_starts_one_dag(dags: dict[str, DAG]) -> None:
    found = [watch for dag in dags.values() for watch in watches_of(dag)]
    assert sorted(found) == sorted(WATCHES)


def test_each_lane_is_served_by_its_own_dag(dags: dict[str, DAG]) -> None:
    for lane in SETTINGS.lanes:
        assert watches_of(dags[dispatch_dag_id(lane)]) == [lane_watch(lane)]


def test_the_reconciler_starts_when_something_has_failed(dags: dict[str, DAG]) -> None:
    assert watches_of(dags["reconcile_dead_letters"]) == [FAILURE_WATCH]


def test_a_watched_dag_has_a_cron_every_15_minutes(dags: dict[str, DAG]) -> None:
    watched = [dag for dag in dags.values() if watches_of(dag)]
    assert len(watched) == len(WATCHES)
    for dag in watched:
        assert isinstance(dag.schedule, AssetOrTimeSchedule)
        assert len(start_minutes(dag)) == 4


def test_no_cron_is_more_frequent_and_none_starts_with_another(dags: dict[str, DAG]) -> None:
    minutes = {dag_id: start_minutes(dag) for dag_id, dag in dags.items()}
    assert {dag_id for dag_id, found in minutes.items() if found == ["*"] or len(found) > 4} == set()
    first = [found[0] for found in minutes.values() if len(found) == 4]
    assert sorted(first) == sorted(set(first))


def test_a_trigger_is_restored_from_its_serialized_form() -> None:
    path, arguments = PollTrigger("lane.email.bulk").serialize()
    assert json.loads(json.dumps(arguments)) == arguments
    restored = import_string(path)(**arguments)
    assert isinstance(restored, PollTrigger)
    assert restored.serialize() == (path, arguments)
    assert restored.watch == "lane.email.bulk"


def test_all_watches_share_one_stream() -> None:
    keys = {PollTrigger(watch).shared_stream_key() for watch in WATCHES}
    assert len(keys) == 1
    assert None not in keys


def test_an_unknown_watch_is_named() -> None:
    with pytest.raises(Misconfigured, match=r"watch 'payment_event' is unknown; add \[watches.payment_event\]"):
        watch_schedule("payment_event", cron="0 * * * *")


@pytest.mark.parametrize("name", SETTINGS.watches)
def test_a_watchs_statement_exists_and_has_no_parameters(name: str) -> None:
    domain, _, statement_name = SETTINGS.watches[name].statement.partition(".")
    assert not PARAMETER.search(statement(domain, statement_name))
