"""`reconcile_dead_letters`: a failure that no callback told of is found all the same."""

from __future__ import annotations

import json
import shutil

import pytest

from demo.check import wait_until
from demo.context import DemoContext
from tests.acceptance.failures import DAGS
from tests.acceptance.isolated_stack import IsolatedStack

pytestmark = pytest.mark.stack


def test_a_letter_that_was_never_written_is_written(stack: IsolatedStack, context: DemoContext) -> None:
    shutil.copy(DAGS / "untold.py", stack.own_dags / "untold.py")
    wait_until(lambda: "fails_untold" in {dag["dag_id"] for dag in context.airflow.dags()}, "the DAG to be parsed")
    run_id, conf = context.run_id("untold"), {"mark": "untold"}
    context.airflow.trigger("fails_untold", conf, run_id)
    assert context.airflow.wait("fails_untold", run_id, 60)["state"] == "failed"

    def letters() -> list[int]:
        rows = context.query("dead_letters", "run_letter_list", dag_ids=["fails_untold"], run_ids=[run_id])
        return [row["certainty"] for row in rows]

    wait_until(lambda: letters() == [2], "what the callback writes")
    [letter] = [
        item
        for item in json.loads(stack.run("dead-letters", "list", "--name", "fails_untold", "--json").stdout)
        if item["run_id"] == run_id
    ]
    context.query("dead_letters", "letter_delete", ids=[letter["id"]])  # as if it had never been called
    done = stack.run("trigger", "reconcile_dead_letters", "--wait", "--json")
    assert json.loads(done.stdout)["state"] == "success"
    # From the log: the exception itself is gone.
    assert letters() == [1]
    [again] = [
        item
        for item in json.loads(stack.run("dead-letters", "list", "--name", "fails_untold", "--json").stdout)
        if item["run_id"] == run_id
    ]
    assert (again["class"], again["attempts"], again["conf"]) == ("network", 1, conf)
    assert "ConnectionRefusedError: the far side is closed (untold)" in again["cause"]
