"""What a `send_*` run promises: once, whatever is repeated; retried by its class; wrong input by its name."""

from __future__ import annotations

import json

import pytest

from backline.airflow_api import FINAL_STATES
from backline.errors import Rejected
from demo.check import wait_until
from demo.context import DemoContext

pytestmark = pytest.mark.stack
CONTENT = {"subject": "Once", "text": "Only once."}


def test_a_run_id_that_was_used_is_refused(world: DemoContext) -> None:
    conf = {"to": f"ann@{world.domain('twice')}", **CONTENT}
    world.airflow.trigger("send_email", conf, world.run_id("twice"))
    with pytest.raises(Rejected) as refused:
        world.airflow.trigger("send_email", conf, world.run_id("twice"))
    assert refused.value.code == "409"
    assert world.airflow.wait("send_email", world.run_id("twice"), 90)["state"] == "success"
    assert len(world.emails_at(world.domain("twice"))) == 1


def test_clearing_a_finished_run_sends_nothing_more(world: DemoContext) -> None:
    run_id = world.run_id("cleared")
    world.airflow.trigger("send_email", {"to": f"ann@{world.domain('cleared')}", **CONTENT}, run_id)
    assert world.airflow.wait("send_email", run_id, 90)["state"] == "success"
    before = world.airflow.xcom("send_email", run_id, "send")

    world.airflow.clear("send_email", run_id)

    def ended_again() -> bool:
        task = world.airflow.task("send_email", run_id, "send")
        return task["try_number"] == 2 and task["state"] in FINAL_STATES

    wait_until(ended_again, "the second try")
    assert world.airflow.wait("send_email", run_id, 90)["state"] == "success"
    assert world.airflow.xcom("send_email", run_id, "send") == before
    assert len(world.emails_at(world.domain("cleared"))) == 1


def test_a_transient_fault_is_retried_and_sent_once(world: DemoContext) -> None:
    run_id, recipient = world.run_id("busy"), f"ann@{world.domain('busy')}"
    rule = {"recipient": recipient, "stage": "rcpt", "action": "reply", "reply": "451 4.3.0 try later", "times": 1}
    world.mail.set_faults(rule)
    world.airflow.trigger("send_email", {"to": recipient, **CONTENT}, run_id)
    assert world.airflow.wait("send_email", run_id, 90)["state"] == "success"
    assert world.airflow.task("send_email", run_id, "send")["try_number"] == 2
    assert "451" in world.airflow.log("send_email", run_id, "send", 1)
    assert len(world.emails_at(world.domain("busy"))) == 1
    assert world.airflow.xcom("send_email", run_id, "send")["attempt"] == 2


def test_a_permanent_fault_fails_the_run_at_once(world: DemoContext) -> None:
    run_id, recipient = world.run_id("gone"), f"nobody@{world.domain('gone')}"
    rule = {"recipient": recipient, "stage": "rcpt", "action": "reply", "reply": "550 5.1.1 no such user"}
    world.mail.set_faults(rule)
    world.airflow.trigger("send_email", {"to": recipient, **CONTENT}, run_id)
    assert world.airflow.wait("send_email", run_id, 90)["state"] == "failed"
    assert world.airflow.task("send_email", run_id, "send")["try_number"] == 1
    assert "550" in world.airflow.log("send_email", run_id, "send")
    (row,) = world.query("demo", "message_find_by_recipient", pattern=recipient, since=world.started_at)
    status = world.message_status(row["id"])
    assert (status["state"], status["error_class"], status["attempt"]) == ("dead", "rejected", 1)
    assert world.emails_at(world.domain("gone")) == []


def test_what_a_run_returns_holds_nothing_of_its_content(world: DemoContext) -> None:
    run_id, text = world.run_id("private"), "The number is 4711."
    conf = {"to": f"ann@{world.domain('private')}", "subject": "Private", "text": text}
    world.airflow.trigger("send_email", conf, run_id)
    assert world.airflow.wait("send_email", run_id, 90)["state"] == "success"
    assert len(world.emails_at(world.domain("private"))) == 1
    returned = world.airflow.xcom("send_email", run_id, "send")
    assert set(returned) == {"message_id", "state", "attempt", "provider_id"}
    assert "4711" not in json.dumps(returned) + world.airflow.log("send_email", run_id, "send")


@pytest.mark.parametrize(
    ("conf", "field"),
    [
        ({"to": "ann@{domain}", "text": "No subject"}, "subject"),
        ({"to": "ann@{domain}", "subject": "x" * 501, "text": "Too long a subject"}, "subject"),
        ({"subject": "No recipient", "text": "No recipient"}, "to"),
        ({"to": "ann@{domain}", "subject": "A number", "text": 7}, "text"),
    ],
)
def test_conf_against_params_is_refused(conf: dict[str, object], field: str, world: DemoContext) -> None:
    domain = world.domain("refused")
    filled = {key: value.format(domain=domain) if isinstance(value, str) else value for key, value in conf.items()}
    with pytest.raises(Rejected) as refused:
        world.airflow.trigger("send_email", filled, world.run_id("refused"))
    assert refused.value.code == "400"
    assert f"param {field}" in refused.value.response
    assert world.mail.count(f"*@{domain}", world.since) == 0


@pytest.mark.parametrize(
    ("case", "kind", "wrong", "named"),
    [
        ("key", "email", {"sbject": "Helo"}, "sbject: is not a field of email"),
        ("address", "email", {"to": "ann at example.com"}, "to: "),
        ("template", "templated_email", {"template": "welcom", "context": {}}, "template: there is no email template"),
        ("path", "email", {"attachments": [{"path": "../../etc/passwd"}]}, "attachments[0].path: "),
    ],
)
def test_conf_against_the_model_fails_and_names_the_field(
    case: str, kind: str, wrong: dict[str, object], named: str, world: DemoContext
) -> None:
    dag, run_id, domain = f"send_{kind}", world.run_id(case), world.domain("wrong")
    base = {"to": f"ann@{domain}", **(CONTENT if kind == "email" else {})}
    world.airflow.trigger(dag, {**base, **wrong}, run_id)
    assert world.airflow.wait(dag, run_id, 90)["state"] == "failed"
    assert world.airflow.task(dag, run_id, "send")["try_number"] == 1
    assert named in world.airflow.log(dag, run_id, "send")
    assert world.mail.count(f"*@{domain}", world.since) == 0
