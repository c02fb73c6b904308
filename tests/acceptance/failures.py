"""All kinds of failures at once, each in its own DAG in the stack's folder of test DAGs."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from backline.dead_letters.store import DeadLetterStore, Filter
from demo.check import wait_until
from demo.context import DemoContext
from testkit.sandbox_clients import ReceivedEmail
from tests.acceptance.isolated_stack import IsolatedStack

DAGS = Path(__file__).parent / "dags"
RUNS = {"killed": "fails_killed", "raising": "fails_raising", "late": "fails_late", "by_hand": "fails_by_hand",
        "stuck": "fails_stuck"}  # fmt: skip
LATE = "ends_after_its_deadline"
KINDS = (*RUNS, "unimportable")
BROKEN = "fails_to_import.py"
OPERATORS = "operators@localhost.localdomain"
BROKEN_TEXT = '"""An Airflow DAG file that cannot be imported."""\n\nimport backline.no_such_module\n'
FIXED_TEXT = '''"""Can be imported again."""

from backline.airflow.jobs import job_dag

with job_dag("fails_no_more", doc="Imports."):
    pass
'''


@dataclass
class Failures:
    """The failures, and when each was recorded."""

    copy: IsolatedStack
    context: DemoContext
    dsn: str
    failed_at: dict[str, float] = field(default_factory=dict)
    recorded_after: dict[str, float] = field(default_factory=dict)
    """Seconds from the failure to its dead letter."""

    def name(self, kind: str) -> str:
        """The name in the dead letter."""
        return RUNS.get(kind, BROKEN)

    def run_id(self, kind: str) -> str:
        return self.context.run_id(kind)

    def letters(self, kind: str) -> list[dict[str, Any]]:
        """The failure's dead letters, as the command shows them."""
        done = self.copy.run("dead-letters", "list", "--state", "all", "--name", self.name(kind), "--json")
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found

    def mails(self, kind: str) -> list[ReceivedEmail]:
        """The failure's alert emails."""
        arrived = self.context.mail.list_emails(OPERATORS, self.context.since)
        return [self.context.mail.get_email(mail.id) for mail in arrived if self.name(kind) in mail.subject]

    def count(self) -> dict[str, int]:
        """How many dead letters there are of each kind."""
        with DeadLetterStore.open(self.dsn) as table:
            rows = list(table.iterate(Filter()))
        return {kind: sum(row["name"] == self.name(kind) for row in rows) for kind in KINDS}


def trigger_all_failures(copy: IsolatedStack, context: DemoContext) -> Failures:
    """Trigger all failures, and wait until each has its dead letter."""
    made = Failures(copy, context, copy.exports()["BACKLINE_DATABASE_URL"])
    shutil.copy(DAGS / "failing.py", copy.own_dags / "failing.py")

    def are_parsed() -> bool:
        return {LATE, *RUNS.values()} <= {dag["dag_id"] for dag in context.airflow.dags()}

    wait_until(are_parsed, "the failing DAGs to be parsed")
    for kind, dag_id in RUNS.items():
        context.airflow.trigger(dag_id, {"mark": f"{kind} {context.tag}"}, made.run_id(kind))
    context.airflow.trigger(LATE, {}, made.run_id("deadline"))
    (copy.own_dags / BROKEN).write_text(BROKEN_TEXT)
    made.failed_at["unimportable"] = time.time()
    by_hand = RUNS["by_hand"], made.run_id("by_hand")
    wait_until(lambda: context.airflow.task(*by_hand, "waiting")["state"] == "running", "the run to be marked failed")
    context.airflow.set_run_state(*by_hand, "failed")

    def all_recorded() -> bool:
        for kind, dag_id in RUNS.items():
            if kind not in made.failed_at and context.airflow.run(dag_id, made.run_id(kind))["state"] == "failed":
                made.failed_at[kind] = time.time()
        for kind, letters in made.count().items():
            if letters and kind not in made.recorded_after:
                made.recorded_after[kind] = time.time() - made.failed_at.get(kind, time.time())
        return set(made.recorded_after) == set(KINDS)

    wait_until(all_recorded, "a dead letter of each failure")
    return made
