"""`send_*` runs by Airflow's public REST API: what is right arrives, what is wrong is refused by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

from backline.airflow_api import AirflowClient
from backline.encryption import Encryptor
from backline.errors import Rejected
from backline.messages import MessageType, registry
from backline.messages.base import EmailMessage, PushMessage, SmsMessage
from backline.messages.recipients import serialize
from backline.messages.secrets import encrypt_secrets
from demo.check import TIMEOUT_SECONDS, Check, CheckFailed, Result, require, wait_until
from demo.context import DemoContext
from testkit.sandbox_clients import ReceivedEmail

TASK_ID = "send"
TYPES_SENT_BY_RUN = ("email", "templated_email", "urgent_email", "welcome", "order_status", "password_reset")
"""Types that are sent by a run each: each run costs a second or two."""


def checks() -> list[Check]:
    """Some types by a run, every type but events by SQL, then what must be refused."""
    kinds = [registry.get(name) for name in TYPES_SENT_BY_RUN]
    return [
        *(
            Check(f"send_{kind.type_name} by REST arrives", partial(_check_delivery, kind), partial(_trigger, kind))
            for kind in kinds
        ),
        Check("email, SMS and push by SQL arrive", _check_all_types),
        Check("a run id that was used is refused", _check_duplicate_run_id),
        Check("conf against Params: 400, names field", _check_invalid_params, log_name="api-server"),
        Check("conf against the model: fails, named", _check_invalid_payload, _prepare_invalid_payload),
    ]


def sample_payload(kind: type[MessageType]) -> dict[str, Any]:
    """A payload of the type: its sample, with an HTML part where the type leaves that to the payload."""
    payload = kind.sample()
    if "html" in kind.model_fields:
        payload["html"] = f"<p>{payload['text']}</p>"
    return payload


def _encrypted_payload(kind: type[MessageType], world: DemoContext) -> dict[str, Any]:
    keys = world.stack.secrets.backline_fernet_keys.split(",")
    return encrypt_secrets(kind, sample_payload(kind), Encryptor(keys).encrypt)


def _trigger(kind: type[MessageType], world: DemoContext) -> None:
    dag, conf = f"send_{kind.type_name}", {"to": _recipient(world, kind), **_encrypted_payload(kind, world)}
    world.airflow.trigger(dag, conf, world.run_id(kind.type_name))


def _check_delivery(kind: type[MessageType], world: DemoContext) -> Result:
    dag, run_id = f"send_{kind.type_name}", world.run_id(kind.type_name)
    recipient, payload = _recipient(world, kind), sample_payload(kind)
    result = run_result(world, dag, run_id)
    require(result.get("state") == "sent", f"the run returned {result}")
    world.sent[int(result["message_id"])] = recipient
    arrived = world.emails_at(world.domain(kind.type_name))
    require(len(arrived) == 1, f"{len(arrived)} messages arrived for {recipient}")
    problem = email_mismatch(kind, payload, recipient, world.mail.get_email(arrived[0].id))
    require(problem is None, f"{problem}")
    return Result("1 mail", "1 mail, text and HTML")


def run_result(world: DemoContext, dag: str, run_id: str, task: str = TASK_ID) -> dict[str, Any]:
    """What a task returned, once its run has ended well."""
    run = world.airflow.wait(dag, run_id, TIMEOUT_SECONDS)
    require(run["state"] == "success", f"the run {run['state']}: {_last_exception(world.airflow, dag, run_id, task)}")
    result = world.airflow.xcom(dag, run_id, task)
    if not isinstance(result, dict):
        raise CheckFailed(f"the run returned {result}")
    return result


def email_mismatch(
    kind: type[MessageType], payload: Mapping[str, Any], recipient: str, email: ReceivedEmail
) -> str | None:
    """What is wrong with a letter that should say this payload, or None."""
    message = kind.parse(payload)
    if not isinstance(message, EmailMessage):
        return f"{kind.type_name} does not go by email"
    wanted = message.email()
    if email.recipients != (recipient,):
        return f"it went to {', '.join(email.recipients)} instead of {recipient}"
    if email.subject != wanted.subject:
        return f"its subject is {email.subject!r} instead of {wanted.subject!r}"
    for part, found, said in (("text", email.text, wanted.text), ("HTML", email.html, wanted.html)):
        if not found.strip():
            return f"it has no {part} part"
        for line in (said or "").splitlines():
            if line.strip() not in found:
                return f"its {part} part lacks {line.strip()!r}"
    return None


def _check_all_types(world: DemoContext) -> Result:
    # Events have a check of their own.
    kinds = [kind for kind in registry.all_types() if "webhook" not in kind.channels]
    with world.transaction():
        for kind in kinds:
            to = {channel: world.recipients(kind.type_name)[channel] for channel in kind.channels}
            made = world.enqueue(kind.type_name, serialize(kind.channels, to), _encrypted_payload(kind, world))
            for row in world.query("outbox", "message_list_enqueued", id=made):
                noted = world.sent if row["channel"] == "email" else world.sent_by_gateway
                noted[row["id"]] = to[row["channel"]]
    mailed = [kind for kind in kinds if "email" in kind.channels]
    arrived = world.wait_for_emails(world.domain("types"), len(mailed))
    letters = {arrival.recipients[0]: arrival.id for arrival in arrived}
    for kind in mailed:
        recipient = world.recipients(kind.type_name)["email"]
        require(recipient in letters, f"nothing arrived for {recipient}")
        problem = email_mismatch(kind, sample_payload(kind), recipient, world.mail.get_email(letters[recipient]))
        require(problem is None, f"{kind.type_name}: {problem}")
    for kind in kinds:
        for channel in set(kind.channels) - {"email"}:
            problem = gateway_message_mismatch(
                kind, sample_payload(kind), channel, _received_message(world, kind, channel)
            )
            require(problem is None, f"{kind.type_name} by {channel}: {problem}")
    texts = sum("sms" in kind.channels for kind in kinds)
    pushed = sum("push" in kind.channels for kind in kinds)
    return Result(f"{len(kinds)} types", f"{len(letters)} mails, {texts} SMS, {pushed} push")


def _received_message(world: DemoContext, kind: type[MessageType], channel: str) -> dict[str, Any]:
    recipient = world.recipients(kind.type_name)[channel]

    def found() -> list[dict[str, Any]]:
        return world.gateways.received(channel, recipient, world.since)

    messages = wait_until(found, f"{kind.type_name} by {channel} to {recipient}")
    require(len(messages) == 1, f"{len(messages)} messages arrived for {recipient}")
    return messages[0]


def gateway_message_mismatch(
    kind: type[MessageType], payload: Mapping[str, Any], channel: str, received: Mapping[str, Any]
) -> str | None:
    """What is wrong with a text or push message that should say this payload, or None."""
    message = kind.parse(payload)
    if channel == "sms" and isinstance(message, SmsMessage):
        wanted = ("", message.sms())
    elif channel == "push" and isinstance(message, PushMessage):
        wanted = (message.push().title, message.push().body)
    else:
        return f"{kind.type_name} does not go by {channel}"
    said = (received["title"], received["text"])
    return None if said == wanted else f"it says {said} instead of {wanted}"


def _check_duplicate_run_id(world: DemoContext) -> Result:
    kind = registry.get("email")
    try:
        _trigger(kind, world)
    except Rejected as exc:
        require(exc.code == "409", f"refused with {exc.code} instead of 409: {exc}")
    else:
        raise CheckFailed(f"the run id {world.run_id('email')} was taken twice")
    count = world.mail.count(f"*@{world.domain('email')}", world.since)
    require(count == 1, f"{count} messages arrived instead of 1")
    return Result("409, 1 mail", "409, 1 mail")


def _check_invalid_params(world: DemoContext) -> Result:
    conf = {"to": f"ann@{world.domain('refused')}", "text": "No subject"}
    try:
        world.airflow.trigger("send_email", conf, world.run_id("params"))
    except Rejected as exc:
        require(exc.code == "400", f"refused with {exc.code} instead of 400: {exc}")
        require("subject" in exc.response, f"the answer does not name the field subject: {exc.response}")
    else:
        raise CheckFailed("a conf without the required subject was taken")
    return Result("400 names subject", "400 names subject")


def _prepare_invalid_payload(world: DemoContext) -> None:
    conf = {"to": f"ann@{world.domain('refused')}", "subject": "Hello", "text": "Hello", "sbject": "Helo"}
    world.airflow.trigger("send_email", conf, world.run_id("model"))


def _check_invalid_payload(world: DemoContext) -> Result:
    run_id = world.run_id("model")
    run = world.airflow.wait("send_email", run_id, TIMEOUT_SECONDS)
    require(run["state"] == "failed", f"the run ended as {run['state']} with an unknown field in its conf")
    log = world.airflow.log("send_email", run_id, TASK_ID)
    require("sbject: is not a field of email" in log, "its log does not name the unknown field sbject")
    count = world.mail.count(f"*@{world.domain('refused')}", world.since)
    require(count == 0, f"{count} messages arrived of a conf that was refused")
    return Result("fails, names sbject", "fails, names sbject")


def _recipient(world: DemoContext, kind: type[MessageType]) -> str:
    return f"ann@{world.domain(kind.type_name)}"


def _last_exception(airflow: AirflowClient, dag: str, run_id: str, task: str) -> str:
    lines = [line for line in airflow.log(dag, run_id, task).splitlines() if "exc_value" in line]
    return json.dumps(lines[-1][:300]) if lines else "see the task's log in the UI"
