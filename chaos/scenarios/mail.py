"""A mail server that is away, refuses, hangs, or drops the line after it took a message."""

from __future__ import annotations

from typing import Any

from backline.channels.settings import EmailSettings
from chaos.environment import LANE
from chaos.scenario import Scenario, Tolerances
from chaos.stack_environment import StackEnvironment

REJECTED_PREFIX = "gone-"
DISPATCHER_COUNT = 2
"""That the lane has at most."""
MANY_ATTEMPTS = {f"BACKLINE__LANES__{LANE}__MAX_ATTEMPTS": "20"}
"""Retries come within seconds here, where as shipped five of them take a quarter of an hour."""


def _server_down(arena: StackEnvironment) -> Tolerances:
    supervisor = arena.stack_copy.stack.supervisor
    with arena.background_load(rate=arena.full_or_short(20.0, 100.0)):
        arena.wait_received(100)
        supervisor.stop("mail")
        arena.run_for(arena.full_or_short(60.0, 5.0))
        supervisor.start("mail")
        arena.wait_received(arena.full_or_short(600, 200))
    arena.wait_finalized()
    # Each line that was cut may have had as many taken and not yet answered as travel over it at a time.
    email = EmailSettings()
    return Tolerances(DISPATCHER_COUNT * email.connections * email.messages_per_connection)


def _error_replies(arena: StackEnvironment) -> Tolerances:
    refused = {f"{REJECTED_PREFIX}{number:03}@{arena.domain}" for number in range(arena.full_or_short(100, 20))}
    rules: list[dict[str, Any]] = [
        {"stage": "connect", "action": "reply", "reply": "421 4.3.2 too busy", "probability": 0.3, "seed": 1},
        {"stage": "rcpt", "recipient": f"{REJECTED_PREFIX}*", "action": "reply", "reply": "550 5.1.1 no such user"},
        {"stage": "rcpt", "action": "reply", "reply": "450 4.2.1 try later", "probability": 0.2, "seed": 2},
        {"stage": "data", "action": "reply", "reply": "451 4.3.0 try later", "probability": 0.2, "seed": 3},
    ]
    arena.mail.set_faults(*rules)
    arena.producer.enqueue(arena.full_or_short(1000, 200))
    for recipient in sorted(refused):
        arena.query(
            "SELECT backline.enqueue('email', %s, %s::jsonb)", recipient, '{"subject": "Never read", "text": "Never."}'
        )
    arena.producer.record_accepted(*refused)
    with arena.background_load():
        arena.wait_received(arena.full_or_short(1000, 200))
    arena.mail.set_faults()
    arena.wait_finalized()
    return Tolerances(0, frozenset(refused))


def _server_hangs(arena: StackEnvironment) -> Tolerances:
    hung = arena.full_or_short(8, 2)
    rules: list[dict[str, Any]] = [
        {"stage": stage, "action": "slow", "seconds": 120.0, "times": hung} for stage in ("mail", "data")
    ]
    arena.mail.set_faults(*rules)
    with arena.background_load():
        arena.wait_received(arena.full_or_short(1500, 300))
    arena.wait_finalized()
    return Tolerances(0)


def _connection_drops(arena: StackEnvironment) -> Tolerances:
    drops = arena.full_or_short(40, 8)
    taken = {"stage": "data", "action": "drop", "after": True, "times": drops, "probability": 0.1, "seed": 1}
    untaken = {"stage": "data", "action": "drop", "times": drops, "probability": 0.1, "seed": 2}
    arena.mail.set_faults(taken, untaken)
    with arena.background_load():
        arena.wait_received(arena.full_or_short(1500, 300))
    arena.wait_finalized()
    # Taken, and the answer never came: only the receiver could know.
    return Tolerances(drops)


SCENARIOS = (
    Scenario("smtp-down", "the mail server is away for a minute", _server_down, MANY_ATTEMPTS),
    Scenario("smtp-answers", "421, 450, 451 and 550 in every mix", _error_replies, MANY_ATTEMPTS),
    Scenario(
        "smtp-hangs",
        "the mail server stops answering in mid-dialogue",
        _server_hangs,
        {"BACKLINE__EMAIL__TIMEOUT_SECONDS": "5"},
    ),
    Scenario(
        "smtp-drops", "the line is cut after DATA, before the answer or before the message was taken", _connection_drops
    ),
)
