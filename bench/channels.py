"""Messages a second over HTTP: each channel through the whole of Backline, and a bare client that posts the same."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import DictRow

from backline.audit_trail import Who
from backline.db.statements import statement
from backline.errors import UnknownFailure
from backline.sealing import Sealer
from backline.settings import settings
from backline.webhooks import endpoints
from backline.webhooks.settings import WebhookSettings
from bench import outbox
from bench.gateway import GatewaySink
from bench.harness import Bench
from bench.report import Figures, median, rounded
from rig.stack_copy import StackCopy, query
from rig.waiting import wait_for

ROUNDS = 3
PATIENCE_SECONDS = 120.0
TOKENS = 8
"""Requests for access tokens that come on top: one a dispatcher's life."""
BENCH = Who("bench")


@dataclass(frozen=True, slots=True)
class Side:
    """One channel: what an app enqueues, and what the same is for a bare client."""

    channel: str
    type: str
    recipients: Sequence[str]
    """In turns."""
    payload: dict[str, Any]
    path: str
    content_type: str
    body: str
    connections: int

    @property
    def lane(self) -> str:
        """Where its messages wait."""
        return f"{self.channel}.normal"


def run(bench: Bench) -> Figures:
    """Rounds of both sides of each channel in turn; the ratios are ours over the bare client's in the same round."""
    count = bench.pick(5_000, 100)
    rates: dict[str, list[float]] = {}
    with bench.gateway() as sink:
        stack = bench.stack()
        with stack.connect() as connection:
            sides = _sides(stack, connection, sink)
            for number in range(bench.pick(ROUNDS, 1)):
                for side in sides:
                    found = {side.channel: _ours(bench, connection, sink, side, count)}
                    found[f"bare_{side.channel}"] = _bare(bench, sink, side, count)
                    for name, rate in found.items():
                        rates.setdefault(name, []).append(rate)
                        bench.report(f"channels, round {number + 1}: {name} {rate:,.0f} a second")
    keys = {f"{name}_per_s": float(round(median(found))) for name, found in rates.items()}
    ratios = {
        f"ratio_{side.channel}": median(
            [ours / bare for ours, bare in zip(rates[side.channel], rates[f"bare_{side.channel}"], strict=True)]
        )
        for side in sides
    }
    per_second = {name: rounded(found, 1) for name, found in rates.items()}
    return Figures("channels", {**ratios, **keys}, {"messages": count, "per_second": per_second})


def _sides(stack: StackCopy, connection: psycopg.Connection[DictRow], sink: GatewaySink) -> list[Side]:
    text = "Your order 1042 is ready. You can pick it up until 6 pm."
    event = {"order": "1042", "total": "72.80", "currency": "EUR"}
    config = settings()
    return [
        Side(
            "sms", "sms", [f"+491511{number:07}" for number in range(1000)], {"body": text},
            "/sms/2010-04-01/Accounts/ACbench/Messages.json", "application/x-www-form-urlencoded",
            f"To=%2B4915110000001&From=Backline&Body={text.replace(' ', '+')}", config.sms.connections,
        ),
        Side(
            "push", "push", [f"device-{number:04}" for number in range(1000)], {"title": "Order 1042", "body": text},
            "/push/v1/projects/bench/messages:send", "application/json",
            json.dumps({"message": {"notification": {"title": "Order 1042", "body": text}, "token": "device-0001"}}),
            config.push.connections,
        ),
        Side(
            "webhook", "webhook", [_endpoint(stack, connection, sink)], {"event_type": "order.paid", "data": event},
            "/webhooks/in", "application/json",
            json.dumps({"type": "order.paid", "timestamp": "2026-01-02T03:04:05.000Z", "data": event}),
            config.webhooks.concurrency,
        ),
    ]  # fmt: skip


def _endpoint(stack: StackCopy, connection: psycopg.Connection[DictRow], sink: GatewaySink) -> str:
    """The id of an endpoint at the sink."""
    sealer = Sealer(stack.stack.secrets.backline_fernet_keys.split(","))
    allowed = WebhookSettings(require_https=False, allowed_addresses=(sink.url.removeprefix("http://"),))
    with connection.transaction():
        made = endpoints.create(connection, allowed, sealer, BENCH, url=f"{sink.url}/webhooks/in")
    return made.endpoint.id


def _ours(bench: Bench, connection: psycopg.Connection[DictRow], sink: GatewaySink, side: Side, count: int) -> float:
    """From the first try to the last completion, by the database's clock; the lane is warm."""
    outbox.wait_finished(connection, _enqueue(connection, side, bench.pick(200, 20)), PATIENCE_SECONDS)
    before = sink.count()
    ids = _enqueue(connection, side, count)
    wait_for(lambda: sink.count() >= before + count, f"{count:,} messages at nginx", PATIENCE_SECONDS, look_seconds=0.1)
    outbox.wait_finished(connection, ids, PATIENCE_SECONDS)
    first, last = outbox.drained(connection, ids)
    sink.require(before, count, count + TOKENS)
    return count / (last - first)


def _enqueue(connection: psycopg.Connection[DictRow], side: Side, count: int) -> list[int]:
    rows = query(
        connection,
        statement("bench", "message_enqueue_many"),
        type=side.type,
        recipients=[side.recipients[number % len(side.recipients)] for number in range(count)],
        payloads=[json.dumps(side.payload)] * count,
        lane=side.lane,
    )
    return [int(row["id"]) for row in rows]


def _bare(bench: Bench, sink: GatewaySink, side: Side, count: int) -> float:
    log, before = f"bare-{side.channel}", sink.count()
    command = [sys.executable, "-P", "-m", "bench.bare_http", sink.url + side.path, side.content_type, side.body,
               str(count), str(side.connections)]  # fmt: skip
    with bench.process(command, log=log) as child:
        if child.wait(PATIENCE_SECONDS):
            raise UnknownFailure(f"the bare client failed; see {bench.log(log)}")
    sink.require(before, count, count)
    return count / float(bench.log(log).read_text().split()[-1])
