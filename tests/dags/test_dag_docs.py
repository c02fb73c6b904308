"""docs/dags.md describes all DAGs."""

from __future__ import annotations

from datetime import timedelta

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import DAG, Asset, AssetOrTimeSchedule, CronTriggerTimetable

from backline.messages.registry import all_types
from testkit.dag_docs import (
    DAGS_FOLDER,
    MANUAL_TRIGGER,
    OUTPUT_FILE,
    describe_schedule,
    format_duration,
    has_entry,
    render_page,
)


@pytest.fixture(scope="module")
def bag() -> DagBag:
    return DagBag(DAGS_FOLDER)


def test_the_page_is_fresh(bag: DagBag) -> None:
    assert OUTPUT_FILE.read_text(encoding="utf-8") == render_page(bag.dags.values()), "run: ./backline generate"


def test_each_dag_has_an_entry_with_its_tasks_and_params(bag: DagBag) -> None:
    text = render_page(bag.dags.values())
    for dag in filter(has_entry, bag.dags.values()):
        entry = text.partition(f"\n### {dag.dag_id}\n")[2].partition("\n### ")[0]
        assert f"| [`{dag.dag_id}`](#{dag.dag_id}) | {dag.description} |" in text
        for task in dag.tasks:
            assert (
                f"| `{task.task_id}` | {task.pool} | {task.queue} | {task.priority_weight} | {task.retries} |" in entry
            )
        assert [name for name in dag.params if f"| `{name}` |" not in entry] == []


def test_headings_in_docstrings_are_no_headings_of_the_page(bag: DagBag) -> None:
    headings = [line for line in render_page(bag.dags.values()).splitlines() if line.startswith("### ")]
    described = sorted(dag.dag_id for dag in bag.dags.values() if has_entry(dag))
    assert sorted(headings) == sorted(["### send_TYPE", *(f"### {dag_id}" for dag_id in described)])


def test_only_the_dags_of_message_types_have_no_entry(bag: DagBag) -> None:
    without = {dag.dag_id for dag in bag.dags.values() if not has_entry(dag)}
    assert without == {f"send_{kind.type_name}" for kind in all_types()}


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        (None, MANUAL_TRIGGER),
        ("*/5 * * * *", "`*/5 * * * *` (UTC)"),
        (timedelta(minutes=90), "every 1 h 30 min"),
        (CronTriggerTimetable("0 2 * * *", timezone="Europe/Berlin"), "`0 2 * * *` (Europe/Berlin)"),
        ([Asset("a"), Asset("b")], "asset `a`, `b`"),
        (Asset("a") | (Asset("b") & Asset("c")), "asset `a`, `b`, `c`"),
        (
            AssetOrTimeSchedule(assets=Asset("a"), timetable=CronTriggerTimetable("1 * * * *", timezone="UTC")),
            "asset `a`, or `1 * * * *` (UTC)",
        ),
    ],
)
def test_schedules_are_described_in_words(schedule: object, words: str) -> None:
    assert describe_schedule(DAG("any", schedule=schedule).schedule) == words  # type: ignore[arg-type]


def test_an_unknown_schedule_is_an_error() -> None:
    with pytest.raises(ValueError, match="no description for a schedule of type object"):
        describe_schedule(object())


def test_durations() -> None:
    assert [format_duration(timedelta(seconds=seconds)) for seconds in (0, 59, 540, 3661)] == ["0 s", "59 s", "9 min", "1 h 1 min 1 s"]  # fmt: skip
