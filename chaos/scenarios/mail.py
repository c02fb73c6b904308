"""A mail server that is away, refuses, hangs, or drops the line after it took a message."""

from __future__ import annotations

from typing import Any

from backline.channel_settings import EmailSettings
from chaos.arena import LANE
from chaos.scenario import Bounds, Scenario
from chaos.stack_arena import StackArena

GONE = "gone-"
DISPATCHERS = 2
"""That the lane has at most."""
PATIENT = {f"BACKLINE__LANES__{LANE}__MAX_ATTEMPTS": "20"}
"""Retries come within seconds here, where as shipped five of them take a quarter of an hour."""


def _down(arena: StackArena) -> Bounds:
    supervisor = arena.copy.stack.supervisor
    with arena.load(rate=arena.pick(20.0, 100.0)):
        arena.wait_arrived(100)
        supervisor.stop("mail")
        arena.watch(arena.pick(60.0, 5.0))
        supervisor.start("mail")
        arena.wait_arrived(arena.pick(600, 200))
    arena.wait_ended()
    # Each line that was cut may have had as many taken and not yet answered as travel over it at a time.
    email = EmailSettings()
    return Bounds(DISPATCHERS * email.connections * email.messages_per_connection)


def _answers(arena: StackArena) -> Bounds:
    refused = {f"{GONE}{number:03}@{arena.domain}" for number in range(arena.pick(100, 20))}
    rules: list[dict[str, Any]] = [
        {"stage": "connect", "action": "reply", "reply": "421 4.3.2 too busy", "probability": 0.3, "seed": 1},
        {"stage": "rcpt", "recipient": f"{GONE}*", "action": "reply", "reply": "550 5.1.1 no such user"},
        {"stage": "rcpt", "action": "reply", "reply": "450 4.2.1 try later", "probability": 0.2, "seed": 2},
        {"stage": "data", "action": "reply", "reply": "451 4.3.0 try later", "probability": 0.2, "seed": 3},
    ]
    arena.mail.set_faults(*rules)
    arena.producer.put(arena.pick(1000, 200))
    for recipient in sorted(refused):
        arena.query(
            "SELECT backline.enqueue('email', %s, %s::jsonb)", recipient, '{"subject": "Never read", "text": "Never."}'
        )
    arena.producer.accept(*refused)
    with arena.load():
        arena.wait_arrived(arena.pick(1000, 200))
    arena.mail.set_faults()
    arena.wait_ended()
    return Bounds(0, frozenset(refused))


def _hangs(arena: StackArena) -> Bounds:
    hung = arena.pick(8, 2)
    rules: list[dict[str, Any]] = [
        {"stage": stage, "action": "slow", "seconds": 120.0, "times": hung} for stage in ("mail", "data")
    ]
    arena.mail.set_faults(*rules)
    with arena.load():
        arena.wait_arrived(arena.pick(1500, 300))
    arena.wait_ended()
    return Bounds(0)


def _drops(arena: StackArena) -> Bounds:
    drops = arena.pick(40, 8)
    taken = {"stage": "data", "action": "drop", "after": True, "times": drops, "probability": 0.1, "seed": 1}
    untaken = {"stage": "data", "action": "drop", "times": drops, "probability": 0.1, "seed": 2}
    arena.mail.set_faults(taken, untaken)
    with arena.load():
        arena.wait_arrived(arena.pick(1500, 300))
    arena.wait_ended()
    # Taken, and the answer never came: only the receiver could know.
    return Bounds(drops)


SCENARIOS = (
    Scenario("smtp-down", "the mail server is away for a minute", _down, PATIENT),
    Scenario("smtp-answers", "421, 450, 451 and 550 in every mix", _answers, PATIENT),
    Scenario(
        "smtp-hangs",
        "the mail server stops answering in mid-dialogue",
        _hangs,
        {"BACKLINE__EMAIL__TIMEOUT_SECONDS": "5"},
    ),
    Scenario("smtp-drops", "the line is cut after DATA, before the answer or before the message was taken", _drops),
)
