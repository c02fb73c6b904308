"""Messages and responses with values that Python, SQL or a protocol cannot handle, among good messages of each channel."""

from __future__ import annotations

import json
import re
import secrets
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from urllib.parse import urlsplit

import psycopg

from backline.audit_trail import Actor
from backline.channels.webhook.settings import WebhookSettings
from backline.db.connect import Session, session
from backline.encryption import Encryptor
from backline.errors import Misconfigured, UnknownFailure
from backline.webhooks import endpoints
from chaos.scenario import Scenario, Tolerances
from chaos.scenarios.producers import INVALID_INPUT
from chaos.stack_environment import StackEnvironment
from testkit.sandbox_clients import GatewayClient

MAX_LATE_SECONDS = 2.0
_DEEP = "[" * 1000 + "]" * 1000
_DIGITS = "9" * 5000
HOSTILE_CHANGES: Mapping[str, str] = {
    f"payload = payload || '{{\"x\": {_DEEP}}}'": "payload: cannot be read",
    f"payload = payload || '{{\"x\": {_DIGITS}}}'": "payload: cannot be read|^x: |is not a field",
    "payload = payload || '{\"x\": 1e5000}'": "payload: cannot be read|^x: |is not a field",
    "payload = '{}'": "required|missing",
    "payload = (SELECT jsonb_object_agg(key, '{\"a\": [null]}'::jsonb) FROM jsonb_object_keys(payload) AS key)": "^[a-z_]+: ",
    r"""payload = payload || '{"no\u2028such\u0001field": "\uffff"}'""": "is not a field",
    "type = 'no_such_type'": "^type: ",
    "type = repeat('é', 200)": "^type: ",
    r"recipient = E'\u202e\u0001'": "^to: ",
    "recipient = repeat('x@', 50000)": "^to: ",
}
"""Changes of a message by the owner of its table, past all checks, and what its error must name."""
ODD_ARGUMENTS = (
    "due_at => 'infinity'", "due_at => '-infinity'", "expires_at => 'infinity'", "due_at => '0001-01-01 00:00+14'",
    "due_at => '4713-01-01 BC'", "request_id => repeat('x', 100000)", "priority => 2147483647", r"request_id => E'\u0001\u202e'",
)  # fmt: skip
"""Arguments of backline.enqueue: it refuses them, or the message is handled like any other."""
_NUL, _HALF = r"\u0000", r"\ud83d"
_HEADERS = [["X-Long", "x" * 9000], *[["Set-Cookie", f"c{number}=1"] for number in range(150)]]
_WAITS = ("0", "-1", "Thu, 01 Jan 1970 00:00:00 GMT", "Thu Jan  1 00:00:00 1970", "soon", "\xff")
_BUSY: list[dict[str, Any]] = [{"status": 503, "headers": [["Retry-After", text]], "times": 1} for text in _WAITS]


@dataclass(frozen=True, slots=True)
class Channel:
    """A channel, its good messages, and what its receiver answers to bad ones: each rule with the state that follows."""

    name: str
    payload: Mapping[str, Any]
    responses: Sequence[tuple[Mapping[str, Any], str]]


CHANNELS: Mapping[str, Channel] = {
    "email": Channel("email", {"subject": "Good", "text": "It arrives."}, [
        ({"action": "garbage", "reply": "\0\0\0", "times": 1}, "sent"),
        ({"action": "garbage", "reply": "999 what", "times": 1}, "sent"),
        ({"action": "garbage", "reply": "451 try again in 0 seconds", "times": 1}, "sent"),
        ({"action": "garbage", "reply": "550 5.1.1 no such \0 user é\u2028"}, "dead"),
    ]),
    "sms": Channel("sms", {"body": "It arrives."}, [
        ({"status": 400, "body": f'{{"code": 21211, "message": "bad {_NUL} {_HALF}"}}'}, "dead"),
        ({"status": 400, "body": "bad \0"}, "dead"),
        ({"status": 400, "body": "[" * 50_000}, "dead"),
        ({"status": 400, "body": "x" * 1000, "endless": True}, "dead"),
        ({"status": 201, "body": f'{{"sid": "SM{_NUL}{_HALF}", "status": "queued{_NUL}"}}'}, "sent"),
        ({"status": 201, "body": '{"sid": "SM1", "status": "queued"}', "headers": _HEADERS}, "sent"),
        *((rule, "sent") for rule in _BUSY),
    ]),
    "push": Channel("push", {"title": "Good", "body": "It arrives."}, [
        ({"status": 400, "body": f'{{"error": {{"message": "{_NUL}{_HALF}", "status": "BAD{_NUL}"}}}}'}, "dead"),
        ({"status": 400, "body": '{"error": {"details": [null, 17, {"errorCode": {}}]}}'}, "dead"),
        ({"status": 400, "body": "x" * 1000, "endless": True}, "dead"),
        ({"status": 200, "body": f'{{"name": "n{_NUL}{_HALF}"}}', "headers": _HEADERS}, "sent"),
        *((rule, "sent") for rule in _BUSY),
    ]),
    "webhook": Channel("webhook", {"event_type": "chaos.good", "data": {"n": 1}}, [
        ({"status": 200, "body": "\0 é", "headers": _HEADERS}, "sent"),
        ({"status": 200, "body": "x" * 1000, "endless": True}, "sent"),
        ({"status": 410, "body": "gone \0"}, "dead"),
        ({"status": 302, "headers": [["Location", "http://\xff\xfe["]], "times": 1}, "sent"),
        *((rule, "sent") for rule in _BUSY),
    ]),
}  # fmt: skip


@dataclass(slots=True)
class _Run:
    """What was enqueued on one channel."""

    channel: Channel
    good: list[int] = field(default_factory=list)
    hostile: dict[int, str] = field(default_factory=dict)
    """Ids with what the error must name."""
    answered: dict[int, str] = field(default_factory=dict)
    """Ids of messages to which the receiver answers badly, with their final state."""
    odd: list[int] = field(default_factory=list)

    def ids(self) -> list[int]:
        """Of all messages."""
        return [*self.good, *self.hostile, *self.answered, *self.odd]


def _poison_values(env: StackEnvironment) -> Tolerances:
    names = env.channels or tuple(CHANNELS)
    if unknown := set(names) - CHANNELS.keys():
        raise Misconfigured(f"no channel {min(unknown)!r}; use some of {', '.join(CHANNELS)}")
    with session(env.dsn, name="chaos") as connection, GatewayClient(env.mail_url) as gateways:
        scene = _Scene(env, connection, gateways, secrets.randbelow(900) + 100)
        try:
            scene.wait([scene.enqueue(CHANNELS[name], 1) for name in names])  # starts the dispatchers
            quiet = [scene.enqueue(CHANNELS[name]) for name in names]
            scene.wait(quiet)
            runs = [scene.enqueue(CHANNELS[name]) for name in names]
            for run in runs:
                scene.add_hostile(run)
            scene.wait(runs)
        finally:
            scene.reset()
        late = max(scene.lateness(before.good, after.good) for before, after in zip(quiet, runs, strict=True))
        lost, wrong = scene.lost(runs), [problem for run in runs for problem in scene.wrong_reasons(run)]
        problems = [*wrong[:10], *scene.undelivered([*quiet, *runs])]
        if late > MAX_LATE_SECONDS:
            problems.append(f"good messages were {late:.1f} s later than without the others")
        if lost:
            problems.append(f"{lost} messages were rescued from dispatchers that died")
        refused = scene.dead_in_domain()
        others = sum(size for name, size in scene.good.items() if name != "email")
    measures = {"late_s": round(max(0.0, late), 1), "dispatchers_lost": lost, "wrong_reason": len(wrong)}
    return Tolerances(0, refused, others, tuple(problems), measures)


@dataclass(slots=True)
class _Scene:
    """One run of the scenario; its recipients have `tag` in them."""

    env: StackEnvironment
    connection: Session
    gateways: GatewayClient
    tag: int
    endpoints: list[str] = field(default_factory=list)
    numbers: Iterator[int] = field(default_factory=count)
    good: Counter[str] = field(default_factory=Counter)
    """How many good messages each channel got."""

    def recipient(self, channel: str, kind: str) -> str:
        """A new one; `kind` is "good" or "bad"."""
        number = next(self.numbers)
        if channel == "email":
            recipient = f"{kind}{number:06}@{self.env.domain}"
            self.env.producer.record_accepted(recipient)
            return recipient
        if channel == "sms":
            return f"+49151{self.tag}{1 if kind == 'good' else 2}{number:05}"
        return (
            f"{kind}-{self.tag}-{number:06}" if channel == "push" else self.endpoint(f"{kind}-{self.tag}-{number:06}")
        )

    def endpoint(self, name: str) -> str:
        """The id of a new webhook endpoint at the sandbox."""
        url = f"{self.env.stack_copy.stack.variables()['BACKLINE_WEBHOOK_URL']}/{name}"
        allowed = WebhookSettings(require_https=False, allowed_addresses=(urlsplit(url).netloc,))
        encryptor = Encryptor(self.env.stack_copy.stack.secrets.backline_fernet_keys.split(","))
        created = endpoints.create(
            self.connection, allowed, encryptor, Actor("chaos"), url=url, event_types=["chaos.none"]
        )
        self.endpoints.append(created.endpoint.id)
        return created.endpoint.id

    def enqueue(self, channel: Channel, size: int | None = None) -> _Run:
        """The good messages of a channel; webhooks go to one endpoint."""
        size = size or self.env.full_or_short(5000, 300)
        if channel.name == "webhook":
            recipients = [self.recipient("webhook", "good")] * size
        else:
            recipients = [self.recipient(channel.name, "good") for _ in range(size)]
        query = "SELECT backline.enqueue_many(%s, %s, array_fill(%s::jsonb, ARRAY[%s])) AS ids"
        [row] = self.connection.execute(query, (channel.name, recipients, json.dumps(channel.payload), size)).fetchall()
        self.good[channel.name] += size
        return _Run(channel, row["ids"])

    def add_hostile(self, run: _Run) -> None:
        """Add hostile rows, odd arguments, and messages that the receiver answers badly."""
        channel, payload = run.channel, json.dumps(run.channel.payload)
        target = self.recipient("webhook", "bad") if channel.name == "webhook" else None
        for _ in range(self.env.full_or_short(20, 3)):
            for change, reason in HOSTILE_CHANGES.items():
                with self.connection.transaction():
                    to = target or self.recipient(channel.name, "bad")
                    query = "SELECT backline.enqueue(%s, %s, %s::jsonb) AS id"
                    [row] = self.connection.execute(query, (channel.name, to, payload)).fetchall()
                    change_query = f"UPDATE backline.message SET {change} WHERE id = {row['id']}"
                    self.connection.execute(change_query)
                run.hostile[row["id"]] = reason
                if change.startswith("recipient"):
                    self.env.producer.accepted.discard(to)
        for argument in ODD_ARGUMENTS:
            to = target or self.recipient(channel.name, "bad")
            try:
                query = f"SELECT backline.enqueue(%s, %s, %s::jsonb, {argument}) AS id"
                cursor = self.connection.execute(query, (channel.name, to, payload))
                run.odd += [row["id"] for row in cursor.fetchall()]
            except psycopg.Error as exc:
                if exc.sqlstate != INVALID_INPUT:
                    raise UnknownFailure(f"{argument} was refused with {exc.sqlstate}: {exc}") from exc
                self.env.producer.accepted.discard(to)
        answered = [(self.recipient(channel.name, "bad"), rule, state) for rule, state in channel.responses]
        self.set_faults(channel.name, [(to, rule) for to, rule, _ in answered])
        for to, _, state in answered:
            # Emails in another lane: a reply that is not SMTP breaks the connection, with what is under way on it.
            lane = "email.bulk" if channel.name == "email" else None
            query = "SELECT backline.enqueue(%s, %s, %s::jsonb, lane => %s) AS id"
            [row] = self.connection.execute(query, (channel.name, to, payload, lane)).fetchall()
            run.answered[row["id"]] = state

    def set_faults(self, channel: str, rules: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        """Let the receiver answer these recipients as their rules say."""
        if channel == "email":
            self.env.mail.set_faults(*[{"stage": "rcpt", "recipient": to, **rule} for to, rule in rules])
        elif channel == "webhook":
            names = dict(zip(self.endpoints[-len(rules) :], rules, strict=True))
            query = "SELECT url FROM backline.webhook_endpoint WHERE id = %s"
            named = [
                {"name": self.connection.execute(query, (name,)).fetchall()[0]["url"].rpartition("/")[2], **rule}
                for name, (_, rule) in names.items()
            ]
            self.gateways.set_faults("webhooks", *named)
        else:
            self.gateways.set_faults(channel, *[{"recipient": to, **rule} for to, rule in rules])

    def wait(self, runs: Sequence[_Run]) -> None:
        """Wait until all messages of these runs are final."""
        ids = [message for run in runs for message in run.ids()]
        query = "SELECT count(*) AS waiting FROM backline.message WHERE id = ANY (%s) AND finalized_at IS NULL"
        self.env.wait_until(
            lambda: self.connection.execute(query, (ids,)).fetchall()[0]["waiting"] == 0,
            "all messages in a final state",
        )

    def lateness(self, before: Sequence[int], after: Sequence[int]) -> float:
        """How much longer the messages took than those before: the largest difference between messages of equal rank."""
        query = """SELECT extract(epoch FROM finalized_at - created_at)::float8 AS seconds FROM backline.message
            WHERE id = ANY (%s) ORDER BY 1"""
        took = [
            [float(row["seconds"]) for row in self.connection.execute(query, (list(ids),))] for ids in (before, after)
        ]
        return max(second - first for first, second in zip(took[0], took[1], strict=True))

    def lost(self, runs: Sequence[_Run]) -> int:
        """How many messages were rescued from a dispatcher that died or lost its lease."""
        query = "SELECT coalesce(sum(rescues), 0)::integer AS lost FROM backline.message WHERE id = ANY (%s)"
        ids = [message for run in runs for message in run.ids()]
        return int(self.connection.execute(query, (ids,)).fetchall()[0]["lost"])

    def wrong_reasons(self, run: _Run) -> Iterator[str]:
        """The bad messages that did not end as they must."""
        query = "SELECT id, state, attempt, rescues, error FROM backline.message WHERE id = ANY (%s)"
        for row in self.connection.execute(query, (run.ids(),)).fetchall():
            text = (
                f"{run.channel.name} message {row['id']} is {row['state']} at attempt {row['attempt']}: {row['error']}"
            )
            reason, state = run.hostile.get(row["id"]), run.answered.get(row["id"])
            if reason is not None:
                right = (row["state"], row["attempt"], row["rescues"]) == ("dead", 1, 0)
                if not right or not re.search(reason, row["error"] or ""):
                    yield f"{text[:300]}, not dead with {reason!r}"
            elif state is not None and row["state"] != state:
                yield f"{text[:300]}, not {state}"

    def undelivered(self, runs: Sequence[_Run]) -> Iterator[str]:
        """What is wrong with the good messages at the receivers, other than that of emails, which the verdict compares."""
        for run in runs:
            if run.channel.name == "email":
                continue
            query = "SELECT count(*) FILTER (WHERE state = 'sent') AS sent, min(recipient) AS first FROM backline.message WHERE id = ANY (%s)"
            [row] = self.connection.execute(query, (run.good,)).fetchall()
            if row["sent"] != len(run.good):
                yield f"{len(run.good) - row['sent']} good messages of {run.channel.name} were not sent"
        for name, expected in self.good.items():
            if name == "webhook":
                received = self.gateways.count_webhooks(f"good-{self.tag}-*")
            elif name in {"sms", "push"}:
                received = self.gateways.count(name, f"+49151{self.tag}1*" if name == "sms" else f"good-{self.tag}-*")
            else:
                continue
            if received != expected:
                yield f"the receiver of {name} got {received} good messages, not {expected}"

    def dead_in_domain(self) -> frozenset[str]:
        """The emails of this scenario that were given up, which is checked elsewhere."""
        return frozenset(str(to) for to, state in self.env.messages() if state == "dead" and to.startswith("bad"))

    def reset(self) -> None:
        """Remove faults and endpoints."""
        self.env.mail.set_faults()
        for name in ("sms", "push", "webhooks"):
            self.gateways.set_faults(name)
        for endpoint in self.endpoints:
            endpoints.delete(self.connection, Actor("chaos"), endpoint)


SCENARIOS = (
    Scenario(
        "poison-values",
        "messages and responses with values that cannot be handled, among good ones of each channel",
        _poison_values,
        {"BACKLINE__WEBHOOKS__RETRY_DELAYS_SECONDS": "[1, 1, 1, 1]"},
    ),
)
