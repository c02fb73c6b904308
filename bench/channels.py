"""Messages a second over HTTP: each channel through all of Backline, and a bare client that posts the same requests."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import DictRow

from backline.audit_trail import Actor
from backline.channels.push.settings import PushSettings
from backline.channels.sms.settings import SmsSettings
from backline.channels.webhook.settings import WebhookSettings
from backline.db.statements import statement
from backline.encryption import Encryptor
from backline.errors import UnknownFailure
from backline.settings import settings
from backline.webhooks import endpoints
from bench import outbox
from bench.gateway_sink import GatewaySink
from bench.harness import BenchRun
from bench.report import BenchResult, median, rounded
from testkit.processes import wait_for
from testkit.stack_copy import StackCopy, query

ROUNDS = 3
TIMEOUT_SECONDS = 120.0
TOKEN_REQUESTS = 8
"""Additional requests for access tokens: one per dispatcher."""
ACTOR = Actor("bench")


@dataclass(frozen=True, slots=True)
class ChannelCase:
    """One channel: what an app enqueues, and the same request for a bare client."""

    channel: str
    type: str
    recipients: Sequence[str]
    """Used in turn."""
    payload: dict[str, Any]
    path: str
    content_type: str
    body: str
    connections: int

    @property
    def lane(self) -> str:
        """The lane of its messages."""
        return f"{self.channel}.normal"


def run(bench: BenchRun) -> BenchResult:
    """Measure both sides of each channel in turn; ratios are Backline's rate over the bare client's of the same round."""
    count = bench.full_or_short(5_000, 100)
    rates: dict[str, list[float]] = {}
    with bench.gateway_sink() as sink:
        stack = bench.full_stack()
        with stack.connect() as connection:
            sides = _channel_cases(stack, connection, sink)
            for number in range(bench.full_or_short(ROUNDS, 1)):
                for side in sides:
                    found = {side.channel: _measure_backline(bench, connection, sink, side, count)}
                    found[f"bare_{side.channel}"] = _measure_bare_client(bench, sink, side, count)
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
    return BenchResult("channels", {**ratios, **keys}, {"messages": count, "per_second": per_second})


def _channel_cases(stack: StackCopy, connection: psycopg.Connection[DictRow], sink: GatewaySink) -> list[ChannelCase]:
    text = "Your order 1042 is ready. You can pick it up until 6 pm."
    event = {"order": "1042", "total": "72.80", "currency": "EUR"}
    config = settings()
    return [
        ChannelCase(
            "sms", "sms", [f"+491511{number:07}" for number in range(1000)], {"body": text},
            "/sms/2010-04-01/Accounts/ACbench/Messages.json", "application/x-www-form-urlencoded",
            f"To=%2B4915110000001&From=Backline&Body={text.replace(' ', '+')}", config.section(SmsSettings).connections,
        ),
        ChannelCase(
            "push", "push", [f"device-{number:04}" for number in range(1000)], {"title": "Order 1042", "body": text},
            "/push/v1/projects/bench/messages:send", "application/json",
            json.dumps({"message": {"notification": {"title": "Order 1042", "body": text}, "token": "device-0001"}}),
            config.section(PushSettings).connections,
        ),
        ChannelCase(
            "webhook", "webhook", [_create_endpoint(stack, connection, sink)], {"event_type": "order.paid", "data": event},
            "/webhooks/in", "application/json",
            json.dumps({"type": "order.paid", "timestamp": "2026-01-02T03:04:05.000Z", "data": event}),
            config.section(WebhookSettings).concurrency,
        ),
    ]  # fmt: skip


def _create_endpoint(stack: StackCopy, connection: psycopg.Connection[DictRow], sink: GatewaySink) -> str:
    """The id of an endpoint at the sink."""
    encryptor = Encryptor(stack.stack.secrets.backline_fernet_keys.split(","))
    allowed = WebhookSettings(require_https=False, allowed_addresses=(sink.url.removeprefix("http://"),))
    with connection.transaction():
        created = endpoints.create(connection, allowed, encryptor, ACTOR, url=f"{sink.url}/webhooks/in")
    return created.endpoint.id


def _measure_backline(
    bench: BenchRun, connection: psycopg.Connection[DictRow], sink: GatewaySink, side: ChannelCase, count: int
) -> float:
    """Measure from the first attempt to the last completion, by the database's clock, on a warm lane."""
    outbox.wait_finished(connection, _enqueue(connection, side, bench.full_or_short(200, 20)), TIMEOUT_SECONDS)
    before = sink.count()
    ids = _enqueue(connection, side, count)
    wait_for(
        lambda: sink.count() >= before + count,
        f"{count:,} messages at nginx",
        TIMEOUT_SECONDS,
        poll_interval_seconds=0.1,
    )
    outbox.wait_finished(connection, ids, TIMEOUT_SECONDS)
    first, last = outbox.drain_times(connection, ids)
    sink.expect(before, count, count + TOKEN_REQUESTS)
    return count / (last - first)


def _enqueue(connection: psycopg.Connection[DictRow], side: ChannelCase, count: int) -> list[int]:
    rows = query(
        connection,
        statement("bench", "message_enqueue_many"),
        type=side.type,
        recipients=[side.recipients[number % len(side.recipients)] for number in range(count)],
        payloads=[json.dumps(side.payload)] * count,
        lane=side.lane,
    )
    return [int(row["id"]) for row in rows]


def _measure_bare_client(bench: BenchRun, sink: GatewaySink, side: ChannelCase, count: int) -> float:
    log, before = f"bare-{side.channel}", sink.count()
    command = [sys.executable, "-P", "-m", "bench.bare_http", sink.url + side.path, side.content_type, side.body,
               str(count), str(side.connections)]  # fmt: skip
    with bench.managed_process(command, log=log) as child:
        if child.wait(TIMEOUT_SECONDS):
            raise UnknownFailure(f"the bare client failed; see {bench.log_file(log)}")
    sink.expect(before, count, count)
    return count / float(bench.log_file(log).read_text().split()[-1])
