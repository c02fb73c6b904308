"""docs/dags.md, made from the DAGs themselves. `python -m backline.airflow.dag_docs` rewrites it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backline.settings import ROOT

if TYPE_CHECKING:
    from airflow.sdk import DAG

OUTPUT_FILE = ROOT / "docs" / "dags.md"
DAGS_FOLDER = ROOT / "dags"
MANUAL_TRIGGER = "by hand or API"
_HEADER = """\
# DAGs

<!-- Made by `python -m backline.airflow.dag_docs`: edit the DAGs, not these lines. -->

Every DAG by the folder of `dags/` that it is in: what it does, what starts it, where it runs, and what it can be given.
"By hand or API" is the form in Airflow's UI, `POST /api/v2/dags/{dag_id}/dagRuns`, or `./backline airflow dags trigger`.
Priorities: critical 10, high 8, normal 5, low 2. Pools and queues come from
[`include/config/backline.toml`](../include/config/backline.toml).

"""


def render_page(dags: Iterable[DAG]) -> str:
    """The whole page."""
    domains: dict[str, list[DAG]] = {}
    for dag in sorted(dags, key=lambda dag: dag.dag_id):
        domains.setdefault(_dag_domain(dag), []).append(dag)
    contents = []
    for domain, members in sorted(domains.items()):
        contents += [f"## {domain.capitalize()}", "", "| DAG | does | trigger |", "|---|---|---|"]
        contents += [
            f"| [`{dag.dag_id}`](#{dag.dag_id}) | {dag.description} | {describe_schedule(dag.schedule)} |"
            for dag in members
        ]
        contents += ["", *(line for dag in members for line in _render_dag(dag))]
    return _HEADER + "\n".join(contents).rstrip() + "\n"


def describe_schedule(schedule: object) -> str:
    """What starts a DAG, in words; ValueError for a kind of schedule that this does not know."""
    if schedule is None:
        return MANUAL_TRIGGER
    if isinstance(schedule, str):
        return f"`{schedule}` (UTC)"
    if isinstance(schedule, timedelta):
        return f"every {format_duration(schedule)}"
    name = type(schedule).__name__
    if name == "AssetOrTimeSchedule":
        return f"{describe_schedule(schedule.asset_condition)}, or {describe_schedule(schedule.timetable)}"  # type: ignore[attr-defined]
    if assets := list(_asset_names(schedule)):
        return "asset " + ", ".join(f"`{asset}`" for asset in assets)
    if name in ("CronTriggerTimetable", "CronDataIntervalTimetable"):
        return f"`{schedule.expression}` ({schedule.timezone})"  # type: ignore[attr-defined]
    raise ValueError(
        f"the catalogue has no words for a schedule of type {name}; teach plugins/backline/airflow/dag_docs.py"
    )


def _asset_names(condition: Any) -> Iterator[str]:
    """Names of the assets of one, a list, or a condition of several."""
    inner = condition if isinstance(condition, list | tuple) else getattr(condition, "objects", ())
    for each in inner:
        yield from _asset_names(each)
    if type(condition).__name__ in ("Asset", "AssetAlias"):
        yield condition.name


def format_duration(time: timedelta) -> str:
    """Hours, minutes and seconds, those that there are."""
    seconds = int(time.total_seconds())
    parts = ((seconds // 3600, "h"), (seconds // 60 % 60, "min"), (seconds % 60, "s"))
    return " ".join(f"{amount} {unit}" for amount, unit in parts if amount) or "0 s"


def _dag_domain(dag: DAG) -> str:
    parts = Path(dag.fileloc).resolve().relative_to(DAGS_FOLDER).parts
    return parts[0] if len(parts) > 1 else "general"


def _render_dag(dag: DAG) -> Iterator[str]:
    yield f"### {dag.dag_id}"
    yield ""
    # Its own heading would stand between the page's.
    yield re.sub(r"^#+ (.+)$", r"**\1**", (dag.doc_md or "").strip(), flags=re.MULTILINE)
    yield ""
    bound = f"; a run ends after {format_duration(dag.dagrun_timeout)}" if dag.dagrun_timeout else ""
    yield f"Trigger: {describe_schedule(dag.schedule)}. At most {dag.max_active_runs} runs at once{bound}."
    yield ""
    yield from ("| task | pool | queue | priority | retries | time limit |", "|---|---|---|---|---|---|")
    for task in sorted(dag.tasks, key=lambda task: task.task_id):
        limit = format_duration(task.execution_timeout) if task.execution_timeout else "none"
        cells = (f"`{task.task_id}`", task.pool, task.queue, task.priority_weight, task.retries, limit)
        yield f"| {' | '.join(map(str, cells))} |"
    yield ""
    if dag.params:
        yield from ("| param | type | default | what it is |", "|---|---|---|---|")
        for name in dag.params:
            yield _render_param(name, dag.params.get_param(name))
        yield ""


def _render_param(name: str, param: Any) -> str:
    kinds = param.schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    kind = " or ".join(one for one in kinds if one != "null")
    if param.has_value:
        default = f"`{json.dumps(param.value, ensure_ascii=False)}`"
    else:
        default = "" if "null" in kinds else "required"
    said = " ".join(str(param.description or "").split()).replace("|", "\\|")
    return f"| `{name}` | {kind} | {default} | {said} |"


def main() -> None:
    """Rewrite the page."""
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(DAGS_FOLDER)
    if bag.import_errors:
        raise SystemExit("\n".join(f"{path}: {error}" for path, error in bag.import_errors.items()))
    OUTPUT_FILE.write_text(render_page(bag.dags.values()), encoding="utf-8")


if __name__ == "__main__":
    main()
