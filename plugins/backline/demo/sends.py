"""`send_*` runs by Airflow's public REST API: what is right arrives, what is wrong is refused by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from typing import Any

from backline.airflow.rest import AirflowRest
from backline.demo.check import PATIENCE_SECONDS, Check, CheckFailed, Result, require
from backline.demo.mail import Letter
from backline.demo.world import World
from backline.errors import Rejected
from backline.messages import MessageType, registry
from backline.messages.base import EmailMessage

TASK = "send"


def checks() -> list[Check]:
    """One for each registered type, then what must be refused."""
    kinds = registry.all_types()
    return [
        *(
            Check(f"send_{kind.type_name} by REST arrives", partial(_arrives, kind), partial(_start, kind))
            for kind in kinds
        ),
        Check("a run id that was used is refused", _duplicate),
        Check("conf against Params: 400, names field", _against_params, log="api-server"),
        Check("conf against the model: fails, named", _against_model, _start_against_model),
    ]


def sample(kind: type[MessageType]) -> dict[str, Any]:
    """A payload of the type: its example, with an HTML part where the type leaves that to the payload."""
    payload = dict(kind.example)
    if "html" in kind.model_fields:
        payload["html"] = f"<p>{payload['text']}</p>"
    return payload


def telling_value(payload: Mapping[str, Any]) -> str:
    """The last text in a payload: one that a recipient must find in the mail."""
    texts: list[str] = []

    def walk(value: Any) -> None:
        if isinstance(value, str):
            texts.append(value)
        elif isinstance(value, Mapping | list | tuple):
            for item in value.values() if isinstance(value, Mapping) else value:
                walk(item)

    walk({key: value for key, value in payload.items() if key != "html"})
    return texts[-1]


def _start(kind: type[MessageType], world: World) -> None:
    dag, conf = f"send_{kind.type_name}", {"to": _recipient(world, kind), **sample(kind)}
    world.airflow.trigger(dag, conf, world.run_id(kind.type_name))


def _arrives(kind: type[MessageType], world: World) -> Result:
    dag, run_id = f"send_{kind.type_name}", world.run_id(kind.type_name)
    recipient, payload = _recipient(world, kind), sample(kind)
    run = world.airflow.wait(dag, run_id, PATIENCE_SECONDS)
    require(run["state"] == "success", f"the run {run['state']}: {_last_words(world.airflow, dag, run_id)}")
    result = world.airflow.xcom(dag, run_id, TASK)
    require(isinstance(result, dict) and result.get("state") == "sent", f"the run returned {result}")
    world.sent[int(result["message_id"])] = recipient
    arrived = world.arrivals(world.domain(kind.type_name))
    require(len(arrived) == 1, f"{len(arrived)} messages arrived for {recipient}")
    problem = content_problem(kind, payload, recipient, world.mail.open(arrived[0].id))
    require(problem is None, f"{problem}")
    return Result("1 mail", "1 mail, text and HTML")


def content_problem(kind: type[MessageType], payload: Mapping[str, Any], recipient: str, letter: Letter) -> str | None:
    """What is wrong with a letter that should say this payload, or None."""
    value = telling_value(payload)
    message = kind.parse(payload)
    if not isinstance(message, EmailMessage):
        return f"{kind.type_name} does not go by email"
    wanted = message.email()
    if letter.recipients != (recipient,):
        return f"it went to {', '.join(letter.recipients)} instead of {recipient}"
    if letter.subject != wanted.subject:
        return f"its subject is {letter.subject!r} instead of {wanted.subject!r}"
    for part, found in (("text", letter.text), ("HTML", letter.html)):
        if not found.strip():
            return f"it has no {part} part"
        if value not in " ".join(found.split()):
            return f"its {part} part lacks {value!r}"
    return None


def _duplicate(world: World) -> Result:
    kind = registry.get("email")
    try:
        _start(kind, world)
    except Rejected as exc:
        require(exc.code == "409", f"refused with {exc.code} instead of 409: {exc}")
    else:
        raise CheckFailed(f"the run id {world.run_id('email')} was taken twice")
    count = world.mail.count(f"*@{world.domain('email')}", world.since)
    require(count == 1, f"{count} messages arrived instead of 1")
    return Result("409, 1 mail", "409, 1 mail")


def _against_params(world: World) -> Result:
    conf = {"to": f"ann@{world.domain('refused')}", "text": "No subject"}
    try:
        world.airflow.trigger("send_email", conf, world.run_id("params"))
    except Rejected as exc:
        require(exc.code == "400", f"refused with {exc.code} instead of 400: {exc}")
        require("subject" in exc.response, f"the answer does not name the field subject: {exc.response}")
    else:
        raise CheckFailed("a conf without the required subject was taken")
    return Result("400 names subject", "400 names subject")


def _start_against_model(world: World) -> None:
    conf = {"to": f"ann@{world.domain('refused')}", "subject": "Hello", "text": "Hello", "sbject": "Helo"}
    world.airflow.trigger("send_email", conf, world.run_id("model"))


def _against_model(world: World) -> Result:
    run_id = world.run_id("model")
    run = world.airflow.wait("send_email", run_id, PATIENCE_SECONDS)
    require(run["state"] == "failed", f"the run ended as {run['state']} with an unknown field in its conf")
    log = world.airflow.log("send_email", run_id, TASK)
    require("sbject: is not a field of email" in log, "its log does not name the unknown field sbject")
    count = world.mail.count(f"*@{world.domain('refused')}", world.since)
    require(count == 0, f"{count} messages arrived of a conf that was refused")
    return Result("fails, names sbject", "fails, names sbject")


def _recipient(world: World, kind: type[MessageType]) -> str:
    return f"ann@{world.domain(kind.type_name)}"


def _last_words(airflow: AirflowRest, dag: str, run_id: str) -> str:
    lines = [line for line in airflow.log(dag, run_id, TASK).splitlines() if "exc_value" in line]
    return json.dumps(lines[-1][:300]) if lines else "see the task's log in the UI"
