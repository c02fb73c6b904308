"""Each kind of failure has one dead letter within a minute, one alert, and can be replayed."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from backline.dead_letters.failures import REPORTED, Failure
from backline.dead_letters.store import DeadLetterStore
from backline.errors import FailureClass
from demo.check import wait_until
from demo.context import DemoContext
from tests.acceptance.failures import BROKEN, FIXED_TEXT, KINDS, LATE, OPERATORS, RUNS, Failures, trigger_all_failures
from tests.acceptance.isolated_stack import IsolatedStack

pytestmark = pytest.mark.stack
CAUSES = {
    "killed": ("unknown", "killed by SIGKILL"),
    "raising": ("network", "the server is down"),
    "late": ("timeout", "longer than its dagrun_timeout"),
    "by_hand": ("unknown", "marked failed by hand, by admin"),
    "stuck": ("timeout", "backline: hard limit of 4 s is over"),
    "unimportable": ("validation", "No module named 'backline.no_such_module'"),
}
TASK = {"killed": "killed", "raising": "raising", "late": "", "by_hand": "waiting", "stuck": "stuck",
        "unimportable": None}  # fmt: skip


@pytest.fixture(scope="module")
def failures(stack: IsolatedStack) -> Iterator[Failures]:
    with stack.context() as context:
        context.mail.set_faults()
        made = trigger_all_failures(stack, context)
        wait_until(lambda: all(made.mails(kind) for kind in KINDS), "an alert of each failure")
        # The reconciler must neither record nor alert a second time.
        stack.run("trigger", "reconcile_dead_letters", "--wait")
        yield made


@pytest.mark.parametrize("kind", KINDS)
def test_it_has_one_dead_letter_within_a_minute(failures: Failures, kind: str) -> None:
    [letter] = failures.letters(kind)
    assert failures.recorded_after[kind] < 60
    failure_class, cause = CAUSES[kind]
    assert (letter["state"], letter["class"], letter["attempts"]) == ("open", failure_class, 1)
    assert cause in letter["cause"]
    assert letter["task_id"] == TASK[kind]
    if kind in RUNS:
        assert letter["run_id"] == failures.run_id(kind)
        assert letter["conf"] == {"mark": f"{kind} {failures.context.tag}"}
        assert letter["log_url"].startswith(f"http://localhost:{failures.copy.port}/dags/{RUNS[kind]}/runs/")


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_alerted_once(failures: Failures, kind: str) -> None:
    [mail] = failures.mails(kind)
    [letter] = failures.letters(kind)
    assert mail.recipients == (OPERATORS,)
    assert CAUSES[kind][1].replace("'", "&#39;") in mail.html
    assert f"dead-letters replay {letter['id']}" in mail.html
    assert f"/backline/api/v1/dead-letters/{letter['id']}/replay" in mail.html
    if letter["log_url"]:
        assert letter["log_url"] in mail.html


def test_they_are_in_the_table_of_failures(failures: Failures) -> None:
    groups = json.loads(failures.copy.run("failures", "--json").stdout)
    found = {(group["name"], group["class"]): group["failures"] for group in groups}
    for kind in KINDS:
        assert found[failures.name(kind), CAUSES[kind][0]] == 1
    shown = failures.copy.run("failures").stdout
    assert "fails_raising" in shown


@pytest.mark.parametrize("kind", RUNS)
def test_a_job_is_replayed_as_a_new_run(failures: Failures, kind: str) -> None:
    [letter] = failures.letters(kind)
    rejected = failures.copy.run(
        "dead-letters", "replay", str(letter["id"]), "--edited", '{"suceed": true}', check=False
    )
    assert rejected.returncode == 1
    assert "edited.suceed: fails_" in rejected.stderr
    edited = json.dumps({"mark": "replayed", "succeed": True})
    done = failures.copy.run("dead-letters", "replay", str(letter["id"]), "--edited", edited, "--json")
    reference = json.loads(done.stdout)[0]["as"]
    dag_id, run_id = reference.removeprefix("run ").split("/")
    run = failures.context.airflow.wait(dag_id, run_id, 60)
    assert run["conf"] is not None
    assert run["note"] is not None
    assert (run["state"], run["conf"]["mark"]) == ("success", "replayed")
    assert f"Replay of dead letter {letter['id']}" in run["note"]
    [after] = failures.letters(kind)
    assert (after["state"], after["replay_ref"]) == ("replayed", reference)
    again = failures.copy.run("dead-letters", "replay", str(letter["id"]), check=False)
    assert again.returncode == 1
    assert "is replayed; only an open one" in again.stderr


def test_a_files_dead_letter_is_resolved_once_it_imports(failures: Failures) -> None:
    [letter] = failures.letters("unimportable")
    failures.copy.run("dead-letters", "replay", str(letter["id"]))
    (failures.copy.own_dags / BROKEN).write_text(FIXED_TEXT)
    wait_until(lambda: failures.letters("unimportable")[0]["state"] == "resolved", "the file's letter to be resolved")
    assert len(failures.mails("unimportable")) == 1


def test_a_run_past_its_deadline_is_reported_once_without_a_dead_letter(failures: Failures) -> None:
    def mails() -> list[str]:
        arrived = failures.context.mail.list_emails(OPERATORS, failures.context.since)
        return [mail.subject for mail in arrived if LATE in mail.subject]

    wait_until(mails, "the mail about the late run")
    assert failures.context.airflow.wait(LATE, failures.run_id("deadline"), 60)["state"] == "success"
    assert mails() == [f"[Backline] {LATE} is late"]
    assert (
        failures.context.query("dead_letters", "run_letter_list", dag_ids=[LATE], run_ids=[failures.run_id("deadline")])
        == []
    )


def test_one_is_shown_exported_and_discarded_by_command(stack: IsolatedStack, context: DemoContext) -> None:
    name = f"by_command_{context.tag}"
    failure = Failure(name, "r1", "work", -1, FailureClass.NETWORK, "no [red]route[/red]", REPORTED, 4, {"days": 1}, None,
                      datetime.now(UTC))  # fmt: skip
    with DeadLetterStore.open(stack.exports()["BACKLINE_DATABASE_URL"]) as letters:
        letter_id = letters.record(failure)
        assert letter_id is not None
        letters.connection.execute("UPDATE backline.dead_letter SET alerted_at = now() WHERE id = %s", [letter_id])

    assert json.loads(stack.run("dead-letters", "show", str(letter_id), "--json").stdout)["conf"] == {"days": 1}
    assert "no [red]route[/red]" in stack.run("dead-letters", "show", str(letter_id)).stdout
    assert "no [red]route[/red]" in stack.run("dead-letters", "list", "--name", name).stdout
    exported = stack.run("dead-letters", "export", "--name", name, "--format", "csv").stdout
    [row] = csv.DictReader(io.StringIO(exported))
    assert (row["id"], row["cause"]) == (str(letter_id), "no [red]route[/red]")

    dry = stack.run("dead-letters", "discard", "--all", "--name", name, "--reason", "a test").stdout
    assert f"1 would be discarded: {letter_id}" in dry
    assert json.loads(stack.run("dead-letters", "list", "--name", name, "--json").stdout)[0]["state"] == "open"
    stack.run("dead-letters", "discard", str(letter_id), "--reason", "a test")
    shown = json.loads(stack.run("dead-letters", "show", str(letter_id), "--json").stdout)
    assert (shown["state"], shown["reason"]) == ("discarded", "a test")


@pytest.mark.parametrize(
    ("command", "error"),
    [
        (("trigger", "no_such_job"), "job: there is no job 'no_such_job'"),
        (("trigger", "purge_dead_letters", "--conf", "[]"), "--conf: must be a JSON object"),
        (("trigger", "purge_dead_letters", "--conf", '{"dry": true}'), "conf.dry: purge_dead_letters has no such parameter; it has: dry_run"),
        (("dead-letters", "show", "999999"), "id: there is no dead letter 999999"),
        (("dead-letters", "list", "--state", "shut"), "state: 'shut' is not a state"),
        (("dead-letters", "replay"), "ID: give one or more ids, or --all"),
    ],
)  # fmt: skip
def test_an_invalid_command_names_the_error(stack: IsolatedStack, command: tuple[str, ...], error: str) -> None:
    done = stack.run(*command, check=False)
    assert done.returncode == 1
    assert error in done.stderr
    assert len(done.stderr.splitlines()) == 1
