"""`send_*` runs through Airflow's public REST API: valid ones deliver, invalid ones are rejected by field."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

from backline.encryption import Encryptor
from backline.errors import Rejected
from backline.messages import registry
from backline.messages.base import EmailMessage, MessageType, PushMessage, SmsMessage
from backline.messages.recipients import serialize
from backline.messages.secrets import encrypt_secrets
from demo.check import TIMEOUT_SECONDS, Check, CheckFailed, Result, require, wait_until
from demo.context import CAUGHT_CHANNELS, DemoContext
from testkit.run_inspector import RunInspector
from testkit.sandbox_clients import ReceivedEmail

TASK_ID = "send"
TYPES_SENT_BY_RUN = ("email", "templated_email", "urgent_email", "welcome", "order_status", "password_reset")
"""Types that are sent by a run each; a run takes a second or two."""


def checks() -> list[Check]:
    """Some types by runs, every type except events by SQL, then runs that must be rejected."""
    kinds = [registry.get(name) for name in TYPES_SENT_BY_RUN]
    return [
        *(
            Check(f"send_{kind.type_name} by REST arrives", partial(_check_delivery, kind), partial(_trigger, kind))
            for kind in kinds
        ),
        Check("email, SMS and push by SQL arrive", _check_all_types),
        Check("a used run id is rejected", _check_duplicate_run_id),
        Check("conf that breaks the Params: 400", _check_invalid_params, log_name="api-server"),
        Check("conf that breaks the model: run fails", _check_invalid_payload, _prepare_invalid_payload),
    ]


def sample_payload(kind: type[MessageType]) -> dict[str, Any]:
    """The type's sample payload, with an HTML part if the payload has that field."""
    payload = kind.sample()
    if "html" in kind.model_fields:
        payload["html"] = f"<p>{payload['text']}</p>"
    return payload


def _encrypted_payload(kind: type[MessageType], context: DemoContext) -> dict[str, Any]:
    keys = context.stack.secrets.backline_fernet_keys.split(",")
    return encrypt_secrets(kind, sample_payload(kind), Encryptor(keys).encrypt)


def _trigger(kind: type[MessageType], context: DemoContext) -> None:
    dag, conf = f"send_{kind.type_name}", {"to": _recipient(context, kind), **_encrypted_payload(kind, context)}
    context.airflow.trigger(dag, conf, context.run_id(kind.type_name))


def _check_delivery(kind: type[MessageType], context: DemoContext) -> Result:
    dag, run_id = f"send_{kind.type_name}", context.run_id(kind.type_name)
    recipient, payload = _recipient(context, kind), sample_payload(kind)
    result = run_result(context, dag, run_id)
    require(result.get("state") == "sent", f"the run returned {result}")
    context.sent[int(result["message_id"])] = recipient
    arrived = context.emails_at(context.domain(kind.type_name))
    require(len(arrived) == 1, f"{len(arrived)} messages arrived for {recipient}")
    problem = email_mismatch(kind, payload, recipient, context.mail.get_email(arrived[0].id))
    require(problem is None, f"{problem}")
    return Result("1 email", "1 email, text and HTML")


def run_result(context: DemoContext, dag: str, run_id: str, task: str = TASK_ID) -> dict[str, Any]:
    """Wait for the run to succeed and return the task's result."""
    run = context.airflow.wait(dag, run_id, TIMEOUT_SECONDS)
    failure = "" if run["state"] == "success" else _last_exception(context.airflow, dag, run_id, task)
    require(not failure, f"the run ended as {run['state']}: {failure}")
    result = context.airflow.xcom(dag, run_id, task)
    if not isinstance(result, dict):
        raise CheckFailed(f"the run returned {result}")
    return result


def email_mismatch(
    kind: type[MessageType], payload: Mapping[str, Any], recipient: str, email: ReceivedEmail
) -> str | None:
    """The first difference between an email and its type's rendering of the payload; None if there is none."""
    message = kind.parse(payload)
    if not isinstance(message, EmailMessage):
        return f"{kind.type_name} has no email channel"
    expected = message.email()
    if email.recipients != (recipient,):
        return f"it went to {', '.join(email.recipients)} instead of {recipient}"
    if email.subject != expected.subject:
        return f"its subject is {email.subject!r} instead of {expected.subject!r}"
    for part, actual, text in (("text", email.text, expected.text), ("HTML", email.html, expected.html)):
        if not actual.strip():
            return f"it has no {part} part"
        for line in (text or "").splitlines():
            if line.strip() not in actual:
                return f"its {part} part lacks {line.strip()!r}"
    return None


def _check_all_types(context: DemoContext) -> Result:
    # Events have their own check.
    kinds = [kind for kind in registry.all_types() if set(kind.channels) <= CAUGHT_CHANNELS]
    with context.transaction():
        for kind in kinds:
            to = {channel: context.recipients(kind.type_name)[channel] for channel in kind.channels}
            group = context.enqueue(kind.type_name, serialize(kind.channels, to), _encrypted_payload(kind, context))
            for row in context.query("outbox", "message_list_enqueued", id=group):
                record = context.sent if row["channel"] == "email" else context.sent_by_gateway
                record[row["id"]] = to[row["channel"]]
    emailed = [kind for kind in kinds if "email" in kind.channels]
    arrived = context.wait_for_emails(context.domain("types"), len(emailed))
    email_ids = {arrival.recipients[0]: arrival.id for arrival in arrived}
    for kind in emailed:
        recipient = context.recipients(kind.type_name)["email"]
        require(recipient in email_ids, f"nothing arrived for {recipient}")
        problem = email_mismatch(kind, sample_payload(kind), recipient, context.mail.get_email(email_ids[recipient]))
        require(problem is None, f"{kind.type_name}: {problem}")
    for kind in kinds:
        for channel in set(kind.channels) - {"email"}:
            problem = gateway_message_mismatch(
                kind, sample_payload(kind), channel, _received_message(context, kind, channel)
            )
            require(problem is None, f"{kind.type_name} by {channel}: {problem}")
    texts = sum("sms" in kind.channels for kind in kinds)
    pushed = sum("push" in kind.channels for kind in kinds)
    return Result(f"{len(kinds)} types", f"{len(email_ids)} email, {texts} SMS, {pushed} push")


def _received_message(context: DemoContext, kind: type[MessageType], channel: str) -> dict[str, Any]:
    recipient = context.recipients(kind.type_name)[channel]

    def found() -> list[dict[str, Any]]:
        return context.gateways.received(channel, recipient, context.since)

    messages = wait_until(found, f"{kind.type_name} by {channel} to {recipient}")
    require(len(messages) == 1, f"{len(messages)} messages arrived for {recipient}")
    return messages[0]


def gateway_message_mismatch(
    kind: type[MessageType], payload: Mapping[str, Any], channel: str, received: Mapping[str, Any]
) -> str | None:
    """The difference between an SMS or push message and its type's rendering of the payload; None if there is none."""
    message = kind.parse(payload)
    if channel == "sms" and isinstance(message, SmsMessage):
        expected = ("", message.sms())
    elif channel == "push" and isinstance(message, PushMessage):
        expected = (message.push().title, message.push().body)
    else:
        return f"{kind.type_name} has no {channel} channel"
    actual = (received["title"], received["text"])
    return None if actual == expected else f"its title and text are {actual} instead of {expected}"


def _check_duplicate_run_id(context: DemoContext) -> Result:
    kind = registry.get("email")
    try:
        _trigger(kind, context)
    except Rejected as exc:
        require(exc.code == "409", f"rejected with {exc.code} instead of 409: {exc}")
    else:
        raise CheckFailed(f"the run id {context.run_id('email')} was accepted twice")
    count = context.mail.count(f"*@{context.domain('email')}", context.since)
    require(count == 1, f"{count} messages arrived instead of 1")
    return Result("409, 1 email", "409, 1 email")


def _check_invalid_params(context: DemoContext) -> Result:
    conf = {"to": f"ann@{context.domain('rejected')}", "text": "No subject"}
    try:
        context.airflow.trigger("send_email", conf, context.run_id("params"))
    except Rejected as exc:
        require(exc.code == "400", f"rejected with {exc.code} instead of 400: {exc}")
        require("subject" in exc.response, f"the response does not name the field subject: {exc.response}")
    else:
        raise CheckFailed("a conf without the required subject was accepted")
    return Result("400 names subject", "400 names subject")


def _prepare_invalid_payload(context: DemoContext) -> None:
    conf = {"to": f"ann@{context.domain('rejected')}", "subject": "Hello", "text": "Hello", "reply_to": "nobody"}
    context.airflow.trigger("send_email", conf, context.run_id("model"))


def _check_invalid_payload(context: DemoContext) -> Result:
    run_id = context.run_id("model")
    run = context.airflow.wait("send_email", run_id, TIMEOUT_SECONDS)
    require(run["state"] == "failed", f"the run ended as {run['state']} despite a wrong address in its conf")
    log = context.airflow.log("send_email", run_id, TASK_ID)
    require("reply_to: " in log and "is not an email address" in log, "its log does not name the wrong field reply_to")
    count = context.mail.count(f"*@{context.domain('rejected')}", context.since)
    require(count == 0, f"{count} messages arrived from a rejected conf")
    return Result("fails, names reply_to", "fails, names reply_to")


def _recipient(context: DemoContext, kind: type[MessageType]) -> str:
    return f"ann@{context.domain(kind.type_name)}"


def _last_exception(airflow: RunInspector, dag: str, run_id: str, task: str) -> str:
    lines = [line for line in airflow.log(dag, run_id, task).splitlines() if "exc_value" in line]
    return json.dumps(lines[-1][:300]) if lines else "see the task's log in the UI"
