"""Messages over HTTP, with Airflow's login: accepted, explained, rejected by field."""

from __future__ import annotations

import json
from typing import Any

from backline.errors import Rejected
from demo.check import Check, CheckFailed, Result, require, wait_until
from demo.context import DemoContext

MESSAGES_PATH = "/backline/api/v1/messages"
BATCH_SIZE = 50


def checks() -> list[Check]:
    """One message, a batch, and a batch with an invalid message."""
    return [
        Check("one over HTTP arrives, is explained", _check_single, log_name="api-server"),
        Check(f"{BATCH_SIZE} in one HTTP request arrive", _check_batch, log_name="api-server"),
        Check("an invalid one rejects its batch: 422", _check_rejected_batch, log_name="api-server"),
    ]


def message_body(recipient: str) -> dict[str, Any]:
    """The request body of one message."""
    return {"type": "welcome", "to": recipient, "payload": {"name": "Ann"}}


def _check_single(context: DemoContext) -> Result:
    recipient = f"ann@{context.domain('http')}"
    [url] = _submit(context, message_body(recipient), [recipient])
    context.wait_for_emails(context.domain("http"), 1)

    def find_sent() -> dict[str, Any] | None:
        found = context.airflow.get(url)
        return found if found["state"] == "sent" else None

    message = wait_until(find_sent, f"GET {url} to return state sent")
    explanation = str(message["why"]).split()
    require(explanation[:2] == ["Sent", "at"], f"GET {url} explains: {message['why']}")
    return Result("202, “Sent at”", f"202, “Sent at {explanation[3]} …”")


def _check_batch(context: DemoContext) -> Result:
    domain = context.domain("http-batch")
    recipients = [f"reader-{number:02}@{domain}" for number in range(BATCH_SIZE)]
    _submit(context, [message_body(recipient) for recipient in recipients], recipients)
    arrived = [arrival.recipients[0] for arrival in context.wait_for_emails(domain, BATCH_SIZE)]
    require(sorted(arrived) == recipients, f"{len(set(arrived))} of {BATCH_SIZE} arrived, {len(arrived)} emails")
    return Result(f"202, {BATCH_SIZE} emails", f"202, {len(arrived)} emails")


def _check_rejected_batch(context: DemoContext) -> Result:
    domain = context.domain("http-rejected")
    batch = [message_body(f"ann@{domain}"), message_body(f"ben at {domain}")]
    try:
        context.airflow.post(MESSAGES_PATH, batch)
    except Rejected as exc:
        require(exc.code == "422", f"rejected with {exc.code} instead of 422: {exc}")
        found = [(error.get("index"), error["field"]) for error in json.loads(exc.response)["errors"]]
        require(found == [(1, "to")], f"the response does not name only `to` of the second message: {exc.response}")
    else:
        raise CheckFailed("a batch with an invalid recipient was accepted")
    left = context.query("demo", "message_find_by_recipient", pattern=f"%{domain}", since=context.started_at)
    require(not left, f"{len(left)} messages of the rejected batch are in the outbox")
    return Result("names `to`, 0 stored", "names 2nd `to`, 0 stored")


def _submit(context: DemoContext, body: Any, recipients: list[str]) -> list[str]:
    """Submit messages over HTTP and record them as sent; returns their URLs."""
    status, response = context.airflow.post(MESSAGES_PATH, body)
    require(status == 202, f"status {status} instead of 202")
    accepted = response["messages"]
    require(len(accepted) == len(recipients), f"{len(accepted)} of {len(recipients)} were accepted")
    context.sent.update(zip((int(one["id"]) for one in accepted), recipients, strict=True))
    return [str(one["url"]) for one in accepted]
