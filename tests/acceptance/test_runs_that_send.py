"""Guarantees of a `send_*` run: sent once despite repetition, retried by error class, invalid input named."""

from __future__ import annotations

import json

import pytest

from backline.airflow_api import FINAL_STATES
from backline.errors import Rejected
from demo.check import wait_until
from demo.context import DemoContext

pytestmark = pytest.mark.stack
CONTENT = {"subject": "Once", "text": "Only once."}


def test_a_used_run_id_is_rejected(context: DemoContext) -> None:
    conf = {"to": f"ann@{context.domain('twice')}", **CONTENT}
    context.airflow.trigger("send_email", conf, context.run_id("twice"))
    with pytest.raises(Rejected) as rejected:
        context.airflow.trigger("send_email", conf, context.run_id("twice"))
    assert rejected.value.code == "409"
    assert context.airflow.wait("send_email", context.run_id("twice"), 90)["state"] == "success"
    assert len(context.emails_at(context.domain("twice"))) == 1


def test_clearing_a_finished_run_sends_nothing_more(context: DemoContext) -> None:
    run_id = context.run_id("cleared")
    context.airflow.trigger("send_email", {"to": f"ann@{context.domain('cleared')}", **CONTENT}, run_id)
    assert context.airflow.wait("send_email", run_id, 90)["state"] == "success"
    before = context.airflow.xcom("send_email", run_id, "send")

    context.airflow.clear("send_email", run_id)

    def ended_again() -> bool:
        task = context.airflow.task("send_email", run_id, "send")
        return task["try_number"] == 2 and task["state"] in FINAL_STATES

    wait_until(ended_again, "the second attempt")
    assert context.airflow.wait("send_email", run_id, 90)["state"] == "success"
    assert context.airflow.xcom("send_email", run_id, "send") == before
    assert len(context.emails_at(context.domain("cleared"))) == 1


def test_a_transient_fault_is_retried_and_sent_once(context: DemoContext) -> None:
    run_id, recipient = context.run_id("busy"), f"ann@{context.domain('busy')}"
    rule = {"recipient": recipient, "stage": "rcpt", "action": "reply", "reply": "451 4.3.0 try later", "times": 1}
    context.mail.set_faults(rule)
    context.airflow.trigger("send_email", {"to": recipient, **CONTENT}, run_id)
    assert context.airflow.wait("send_email", run_id, 90)["state"] == "success"
    assert context.airflow.task("send_email", run_id, "send")["try_number"] == 2
    assert "451" in context.airflow.log("send_email", run_id, "send", 1)
    assert len(context.emails_at(context.domain("busy"))) == 1
    assert context.airflow.xcom("send_email", run_id, "send")["attempt"] == 2


def test_a_permanent_fault_fails_the_run_at_once(context: DemoContext) -> None:
    run_id, recipient = context.run_id("gone"), f"nobody@{context.domain('gone')}"
    rule = {"recipient": recipient, "stage": "rcpt", "action": "reply", "reply": "550 5.1.1 no such user"}
    context.mail.set_faults(rule)
    context.airflow.trigger("send_email", {"to": recipient, **CONTENT}, run_id)
    assert context.airflow.wait("send_email", run_id, 90)["state"] == "failed"
    assert context.airflow.task("send_email", run_id, "send")["try_number"] == 1
    assert "550" in context.airflow.log("send_email", run_id, "send")
    (row,) = context.query("demo", "message_find_by_recipient", pattern=recipient, since=context.started_at)
    status = context.message_status(row["id"])
    assert (status["state"], status["error_class"], status["attempt"]) == ("dead", "rejected", 1)
    assert context.emails_at(context.domain("gone")) == []


def test_a_runs_result_has_no_content(context: DemoContext) -> None:
    run_id, text = context.run_id("private"), "The number is 4711."
    conf = {"to": f"ann@{context.domain('private')}", "subject": "Private", "text": text}
    context.airflow.trigger("send_email", conf, run_id)
    assert context.airflow.wait("send_email", run_id, 90)["state"] == "success"
    assert len(context.emails_at(context.domain("private"))) == 1
    returned = context.airflow.xcom("send_email", run_id, "send")
    assert set(returned) == {"message_id", "state", "attempt", "provider_id"}
    assert "4711" not in json.dumps(returned) + context.airflow.log("send_email", run_id, "send")


@pytest.mark.parametrize(
    ("conf", "field"),
    [
        ({"to": "ann@{domain}", "text": "No subject"}, "subject"),
        ({"to": "ann@{domain}", "subject": "x" * 501, "text": "Too long a subject"}, "subject"),
        ({"subject": "No recipient", "text": "No recipient"}, "to"),
        ({"to": "ann@{domain}", "subject": "A number", "text": 7}, "text"),
    ],
)
def test_conf_that_breaks_the_params_is_rejected(conf: dict[str, object], field: str, context: DemoContext) -> None:
    domain = context.domain("rejected")
    filled = {key: value.format(domain=domain) if isinstance(value, str) else value for key, value in conf.items()}
    with pytest.raises(Rejected) as rejected:
        context.airflow.trigger("send_email", filled, context.run_id("rejected"))
    assert rejected.value.code == "400"
    assert f"param {field}" in rejected.value.response
    assert context.mail.count(f"*@{domain}", context.since) == 0


@pytest.mark.parametrize(
    ("case", "kind", "wrong", "named"),
    [
        ("address", "email", {"to": "ann at example.com"}, "to: "),
        ("template", "templated_email", {"template": "welcom", "context": {}}, "template: there is no email template"),
        ("path", "email", {"attachments": [{"path": "../../etc/passwd"}]}, "attachments[0].path: "),
    ],
)
def test_conf_that_breaks_the_model_fails_the_run_and_names_the_field(
    case: str, kind: str, wrong: dict[str, object], named: str, context: DemoContext
) -> None:
    dag, run_id, domain = f"send_{kind}", context.run_id(case), context.domain("wrong")
    base = {"to": f"ann@{domain}", **(CONTENT if kind == "email" else {})}
    context.airflow.trigger(dag, {**base, **wrong}, run_id)
    assert context.airflow.wait(dag, run_id, 90)["state"] == "failed"
    assert context.airflow.task(dag, run_id, "send")["try_number"] == 1
    assert named in context.airflow.log(dag, run_id, "send")
    assert context.mail.count(f"*@{domain}", context.since) == 0
