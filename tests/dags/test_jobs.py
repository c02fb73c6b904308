"""Every job is built by `job_dag`, which sets its defaults; no DAG file copies them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG, CronDataIntervalTimetable, CronTriggerTimetable, task
from airflow.sdk.definitions.mappedoperator import MappedOperator

from backline.airflow.callbacks import record_run_failure, record_task_failure
from backline.airflow.defaults import configured_pools
from backline.airflow.jobs import JobRetryPolicy, PreExecute, job_dag
from backline.errors import InvalidInput, Misconfigured, NetworkFailure, RateLimited
from backline.settings import ROOT, load, settings

FILES = sorted((ROOT / "dags").rglob("*.py"))
SETTINGS = load(ROOT / "include" / "config" / "backline.toml")
CONFIG = (ROOT / "include" / "config" / "backline.toml").read_text()


@pytest.fixture(scope="session")
def jobs() -> dict[str, DAG]:
    return {dag_id: dag for dag_id, dag in DagBag(ROOT / "dags").dags.items() if "job" in dag.tags}


@pytest.fixture
def configured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A settings file of the test's own."""
    path = tmp_path / "backline.toml"
    monkeypatch.setenv("BACKLINE_CONFIG", str(path))
    settings.cache_clear()
    yield path
    settings.cache_clear()


def pre_execute_of(task: Any) -> PreExecute:
    """The hook that runs before a task, mapped or not."""
    found = task.partial_kwargs["pre_execute"] if task.is_mapped else task._pre_execute_hook
    assert isinstance(found, PreExecute)
    return found


def cron_of(dag: DAG) -> str:
    """The cron expression that starts a DAG."""
    assert isinstance(dag.timetable, CronTriggerTimetable | CronDataIntervalTimetable)
    return dag.timetable.expression


def test_each_has_the_defaults_of_jobs(jobs: dict[str, DAG]) -> None:
    for dag_id, dag in jobs.items():
        assert dag.on_failure_callback == [record_run_failure] or dag.on_failure_callback is record_run_failure
        assert dag.doc_md, dag_id
        for each in dag.tasks:
            job = pre_execute_of(each).job
            # A mapped task keeps the callback as given, not as a list.
            assert each.on_failure_callback in ([record_task_failure], record_task_failure)
            assert isinstance(each.retry_policy, JobRetryPolicy)
            assert each.owner == "backline"
            assert each.pool in configured_pools(SETTINGS)
            assert each.pool in SETTINGS.job_pools
            assert each.weight_rule == "absolute"
            assert each.execution_timeout == timedelta(seconds=job.soft_limit_seconds)
            assert job.effective_hard_limit_seconds > job.soft_limit_seconds
            assert each.doc_md


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_dag_file_copies_the_defaults(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        names = {word.arg for word in getattr(node, "keywords", [])}
        assert not names & {
            "default_args",
            "owner",
            "on_failure_callback",
            "retry_policy",
            "execution_timeout",
            "weight_rule",
        }
        assert getattr(node, "id", "") != "DAG", "use job_dag"


def test_the_settings_name_existing_jobs(jobs: dict[str, DAG]) -> None:
    assert set(SETTINGS.jobs.overrides) <= set(jobs)


def test_an_operator_changes_the_schedule_or_switches_it_off(configured: Path) -> None:
    configured.write_text(CONFIG + '\n[jobs."nightly"]\nschedule = "0 5 * * *"\n\n[jobs."weekly"]\nenabled = false\n')
    assert cron_of(job_dag("nightly", doc="Runs.", schedule="@daily")) == "0 5 * * *"
    assert job_dag("weekly", doc="Runs.", schedule="@weekly").timetable.__class__.__name__ == "NullTimetable"
    assert job_dag("by_hand", doc="Runs.").timetable.__class__.__name__ == "NullTimetable"
    assert cron_of(job_dag("daily", doc="Runs.", schedule="15 3 * * *")) == "15 3 * * *"


def test_the_error_of_a_wrong_setting_names_the_job(configured: Path) -> None:
    configured.write_text(CONFIG)
    with pytest.raises(Misconfigured, match="job 'nightly': retrys: unknown setting"):
        job_dag("nightly", doc="Runs.", retrys=1)


def test_a_deadline_becomes_that_of_the_dag(configured: Path) -> None:
    configured.write_text(CONFIG)
    assert job_dag("quick", doc="Runs.").deadline in (None, [])
    deadline = job_dag("quick", doc="Runs.", deadline_seconds=90).deadline
    [alert] = deadline if isinstance(deadline, list) else [deadline]
    assert alert is not None
    assert alert.interval == timedelta(seconds=90)
    assert alert.callback.path == "backline.airflow.callbacks.record_late_run"
    assert alert.callback.kwargs == {"deadline_seconds": 90}


@pytest.mark.parametrize(("attempts", "low", "high"), [(1, 48, 72), (2, 96, 144), (3, 192, 288)])
def test_delays_double_with_real_jitter(attempts: int, low: float, high: float) -> None:
    policy = JobRetryPolicy(1.0)
    delays = {policy.evaluate(NetworkFailure(), attempts, 3).retry_delay.total_seconds() for _ in range(20)}  # type: ignore[union-attr]
    assert len(delays) > 10
    assert all(low <= delay <= high for delay in delays)


def test_permanent_errors_fail_at_once() -> None:
    assert JobRetryPolicy(1.0).evaluate(InvalidInput("days", "is wrong"), 1, 3).action.value == "fail"


def test_retry_after_is_respected() -> None:
    decision = JobRetryPolicy(1.0).evaluate(RateLimited(retry_after=100), 1, 3)
    assert decision.retry_delay is not None
    assert 100 <= decision.retry_delay.total_seconds() <= 120


@pytest.mark.parametrize("wish", [0.0, 1.0])
def test_a_retry_after_below_our_own_delay_does_not_shorten_it(wish: float) -> None:
    decision = JobRetryPolicy(2.0).evaluate(RateLimited(retry_after=wish), 1, 3)
    assert decision.retry_delay is not None
    assert 96 <= decision.retry_delay.total_seconds() <= 144


def test_the_backoff_multiplies_the_delays() -> None:
    decision = JobRetryPolicy(0.1).evaluate(NetworkFailure(), 1, 3)
    assert decision.retry_delay is not None
    assert 4.8 <= decision.retry_delay.total_seconds() <= 7.2


def test_every_task_has_the_pre_execute_hook(jobs: dict[str, DAG]) -> None:
    for dag in jobs.values():
        assert all(pre_execute_of(each).name == dag.dag_id for each in dag.tasks)


def test_mapped_tasks_have_the_same_defaults(configured: Path) -> None:
    configured.write_text(CONFIG)
    with job_dag("mapped", doc="Runs.", memory_limit_mib=64) as dag:

        @task
        def one(number: int) -> int:
            """One of many."""
            return number

        one.expand(number=[1, 2])
    [mapped] = dag.tasks
    assert pre_execute_of(mapped).job.memory_limit_mib == 64
    assert isinstance(mapped, MappedOperator)
    assert isinstance(mapped.partial_kwargs["retry_policy"], JobRetryPolicy)
