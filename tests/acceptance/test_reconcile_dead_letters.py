"""`reconcile_dead_letters`: a failure without a callback is found as well."""

from __future__ import annotations

import json
import shutil

import pytest

from demo.check import wait_until
from demo.context import DemoContext
from tests.acceptance.failures import DAGS
from tests.acceptance.isolated_stack import IsolatedStack

pytestmark = pytest.mark.stack


def test_a_missing_dead_letter_is_created(stack: IsolatedStack, context: DemoContext) -> None:
    shutil.copy(DAGS / "unreported.py", stack.own_dags / "unreported.py")
    wait_until(lambda: "fails_unreported" in {dag["dag_id"] for dag in context.airflow.dags()}, "the DAG to be parsed")
    run_id, conf = context.run_id("unreported"), {"mark": "unreported"}
    context.airflow.trigger("fails_unreported", conf, run_id)
    assert context.airflow.wait("fails_unreported", run_id, 60)["state"] == "failed"

    def letters() -> list[int]:
        rows = context.query("dead_letters", "run_letter_list", dag_ids=["fails_unreported"], run_ids=[run_id])
        return [row["certainty"] for row in rows]

    wait_until(lambda: letters() == [2], "the callback's dead letter")
    [letter] = [
        item
        for item in json.loads(stack.run("dead-letters", "list", "--name", "fails_unreported", "--json").stdout)
        if item["run_id"] == run_id
    ]
    context.query("dead_letters", "letter_delete", ids=[letter["id"]])  # as if the callback had not been called
    done = stack.run("trigger", "reconcile_dead_letters", "--wait", "--json")
    assert json.loads(done.stdout)["state"] == "success"
    # From the log, as the exception itself is lost.
    assert letters() == [1]
    [again] = [
        item
        for item in json.loads(stack.run("dead-letters", "list", "--name", "fails_unreported", "--json").stdout)
        if item["run_id"] == run_id
    ]
    assert (again["class"], again["attempts"], again["conf"]) == ("network", 1, conf)
    assert "ConnectionRefusedError: the server is down (unreported)" in again["cause"]
