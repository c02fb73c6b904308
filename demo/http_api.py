"""Messages over HTTP, with Airflow's own login: taken in, told of, refused by name."""

from __future__ import annotations

import json
from typing import Any

from backline.errors import Rejected
from demo.check import Check, CheckFailed, Result, require, wait_until
from demo.context import DemoContext

MESSAGES_PATH = "/backline/api/v1/messages"
BATCH_SIZE = 50


def checks() -> list[Check]:
    """One, many, and many of which one is wrong."""
    return [
        Check("one over HTTP arrives, is explained", _check_single, log_name="api-server"),
        Check(f"{BATCH_SIZE} in one HTTP request arrive", _check_batch, log_name="api-server"),
        Check("a wrong one takes its batch down: 422", _check_rejected_batch, log_name="api-server"),
    ]


def message_body(recipient: str) -> dict[str, Any]:
    """A body of one message."""
    return {"type": "welcome", "to": recipient, "payload": {"name": "Ann"}}


def _check_single(world: DemoContext) -> Result:
    recipient = f"ann@{world.domain('http')}"
    [url] = _submit(world, message_body(recipient), [recipient])
    world.wait_for_emails(world.domain("http"), 1)

    def told() -> dict[str, Any] | None:
        found = world.airflow.get(url)
        return found if found["state"] == "sent" else None

    story = wait_until(told, f"GET {url} to say that it was sent")
    why = str(story["why"]).split()
    require(why[:2] == ["Sent", "at"], f"GET {url} explains it so: {story['why']}")
    return Result("202, “Sent at”", f"202, “Sent at {why[3]} …”")


def _check_batch(world: DemoContext) -> Result:
    domain = world.domain("http-batch")
    recipients = [f"reader-{number:02}@{domain}" for number in range(BATCH_SIZE)]
    _submit(world, [message_body(recipient) for recipient in recipients], recipients)
    arrived = [arrival.recipients[0] for arrival in world.wait_for_emails(domain, BATCH_SIZE)]
    require(sorted(arrived) == recipients, f"{len(set(arrived))} of {BATCH_SIZE} arrived, {len(arrived)} mails")
    return Result(f"202, {BATCH_SIZE} mails", f"202, {len(arrived)} mails")


def _check_rejected_batch(world: DemoContext) -> Result:
    domain = world.domain("http-refused")
    batch = [message_body(f"ann@{domain}"), message_body(f"ben at {domain}")]
    try:
        world.airflow.post(MESSAGES_PATH, batch)
    except Rejected as exc:
        require(exc.code == "422", f"refused with {exc.code} instead of 422: {exc}")
        found = [(error.get("index"), error["field"]) for error in json.loads(exc.response)["errors"]]
        require(found == [(1, "to")], f"the answer does not name the field `to` of the second alone: {exc.response}")
    else:
        raise CheckFailed("a batch with a wrong recipient was taken")
    left = world.query("demo", "message_find_by_recipient", pattern=f"%{domain}", since=world.started_at)
    require(not left, f"{len(left)} messages of the refused batch are in the outbox")
    return Result("names `to`, none in", "names 2nd `to`, none in")


def _submit(world: DemoContext, body: Any, recipients: list[str]) -> list[str]:
    """Send over HTTP, note them as sent; returns their URLs."""
    status, answer = world.airflow.post(MESSAGES_PATH, body)
    require(status == 202, f"answered {status} instead of 202")
    taken = answer["messages"]
    require(len(taken) == len(recipients), f"{len(taken)} of {len(recipients)} were taken")
    world.sent.update(zip((int(one["id"]) for one in taken), recipients, strict=True))
    return [str(one["url"]) for one in taken]
