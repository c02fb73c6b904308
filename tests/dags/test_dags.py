"""All DAGs import, follow the defaults and describe themselves. No metadata database is needed."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG, BaseOperator
from airflow.sdk.bases.hook import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException, AirflowSkipException
from airflow.serialization.serialized_objects import DagSerialization

from backline.airflow.defaults import configured_pools
from backline.airflow.dispatch import dispatch_dag_id
from backline.messages import registry
from backline.settings import ROOT, load

FOLDER = ROOT / "dags"
SETTINGS = load(ROOT / "include" / "config" / "backline.toml")
DISPATCH = {dispatch_dag_id(lane): lane for lane in SETTINGS.lanes}
JOBS = [name for path in FOLDER.rglob("*.py") for name in re.findall(r'job_dag\(\s*"(\w+)"', path.read_text())]
SEND = {f"send_{kind.type_name}": kind for kind in registry.all_types()}


@pytest.fixture(scope="session")
def bag() -> DagBag:
    return DagBag(FOLDER)


@pytest.fixture(params=sorted({*DISPATCH, *SEND, *JOBS}))
def dag(request: pytest.FixtureRequest, bag: DagBag) -> DAG:
    return bag.dags[request.param]


def test_all_import_without_errors_or_warnings(bag: DagBag) -> None:
    assert bag.import_errors == {}
    assert set(bag.dags) == {*DISPATCH, *SEND, *JOBS}


def test_each_describes_itself(dag: DAG) -> None:
    assert dag.description
    assert dag.doc_md
    assert "backline" in dag.tags
    assert not dag.catchup
    assert dag.description.strip()[-1] not in "\n "


def test_each_task_follows_the_defaults(dag: DAG) -> None:
    assert dag.tasks
    pools = configured_pools(SETTINGS)
    for task in dag.tasks:
        assert task.owner == "backline"
        assert task.pool in pools
        assert pools[task.pool] >= 1
        assert task.weight_rule == "absolute"
        assert task.execution_timeout is not None
        assert timedelta(0) < task.execution_timeout <= timedelta(minutes=15)
        assert task.doc_md


@pytest.mark.parametrize(("dag_id", "lane"), DISPATCH.items())
def test_dispatchers(bag: DagBag, dag_id: str, lane: str) -> None:
    dag, settings = bag.dags[dag_id], SETTINGS.lane(lane)
    [task] = dag.tasks
    assert (task.retries, task.queue, task.priority_weight) == (0, settings.queue, settings.priority)
    assert task.pool == lane.replace(".", "_")
    # A successor starts before its predecessor has ended, so Airflow's limit and the pool need one more slot.
    assert dag.max_active_runs == settings.max_dispatchers + 1 <= configured_pools(SETTINGS)[task.pool]
    assert "CronTriggerTimetable" in json.dumps(DagSerialization.to_dict(dag), default=str)
    # A timeout could interrupt it between the provider's OK and the commit.
    assert task.execution_timeout is not None
    assert task.execution_timeout.total_seconds() > SETTINGS.outbox.dispatcher_lifetime_seconds + 60


@pytest.mark.parametrize("dag_id", SEND)
def test_senders(bag: DagBag, dag_id: str) -> None:
    dag, kind = bag.dags[dag_id], SEND[dag_id]
    lane = SETTINGS.lane(kind.lane_for(kind.channels[0]))
    [task] = dag.tasks
    assert task.retries == (kind.max_attempts or lane.max_attempts) - 1
    assert task.retry_policy is not None
    assert (task.queue, task.priority_weight, task.pool) == (lane.queue, lane.priority, f"{kind.channels[0]}_direct")
    assert dag.timetable.__class__.__name__ == "NullTimetable"
    assert {"to", *kind.model_fields} <= set(dag.params)


def test_urgent_lanes_have_a_higher_priority_than_bulk(bag: DagBag) -> None:
    weights = [
        bag.dags[dag_id].tasks[0].priority_weight
        for dag_id in ("dispatch_email_urgent", "dispatch_email", "dispatch_email_bulk")
    ]
    assert weights == sorted(weights, reverse=True)
    assert len(set(weights)) == 3


@pytest.mark.parametrize("dag_id", ["dispatch_email", "send_welcome", "send_password_reset"])
def test_parsing_for_one_dag_builds_only_that(monkeypatch: pytest.MonkeyPatch, dag_id: str) -> None:
    monkeypatch.setenv("_AIRFLOW_PARSING_CONTEXT_DAG_ID", dag_id)
    assert set(DagBag(FOLDER / "messages").dags) == {dag_id}


@pytest.mark.parametrize("path", sorted(FOLDER.rglob("*.py")), ids=lambda path: path.name)
def test_dag_files_are_short_and_have_a_docstring(path: Any) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 150
    assert text.startswith('"""')


@pytest.mark.parametrize(("dag_id", "name"), [("dispatch_sms", "SMS"), ("dispatch_push", "PUSH")])
def test_a_lane_without_its_connection_is_skipped_with_the_setting_to_add(
    bag: DagBag, dag_id: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def not_there(connection_id: str) -> None:
        raise AirflowNotFoundException(f"The conn_id `{connection_id}` isn't defined")

    monkeypatch.setattr(BaseHook, "get_connection", not_there)
    [task] = bag.dags[dag_id].tasks
    assert isinstance(task, BaseOperator)
    with pytest.raises(AirflowSkipException, match=f"AIRFLOW_CONN_{name}_GATEWAY"):
        task.execute({"dag_run": SimpleNamespace(run_type="manual", dag_id=dag_id, run_id="r")})


def test_a_type_of_two_channels_takes_an_address_for_each(bag: DagBag) -> None:
    assert {"email", "sms"} <= bag.dags["send_order_shipped"].tags
    assert "object" in bag.dags["send_order_shipped"].params.get_param("to").schema["type"]
