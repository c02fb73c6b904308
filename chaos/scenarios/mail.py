"""A mail server that is down, rejects, hangs, or drops connections."""

from __future__ import annotations

from typing import Any

from backline.channels.email.settings import EmailSettings
from chaos.environment import LANE
from chaos.scenario import Scenario, Tolerances
from chaos.stack_environment import StackEnvironment

REJECTED_PREFIX = "gone-"
DISPATCHER_COUNT = 2
"""The lane's maximum."""
MANY_ATTEMPTS = {f"BACKLINE__LANES__{LANE}__MAX_ATTEMPTS": "20"}
"""With fast retries, the shipped limit of attempts would be reached within seconds."""


def _server_down(env: StackEnvironment) -> Tolerances:
    supervisor = env.stack_copy.stack.supervisor
    with env.background_load(rate=env.full_or_short(20.0, 100.0)):
        env.wait_received(100)
        supervisor.stop("mail")
        env.run_for(env.full_or_short(60.0, 5.0))
        supervisor.start("mail")
        env.wait_received(env.full_or_short(600, 200))
    env.wait_finalized()
    # Each closed connection may have had a full pipeline of stored messages without a response.
    email = EmailSettings()
    return Tolerances(DISPATCHER_COUNT * email.connections * email.messages_per_connection)


def _error_replies(env: StackEnvironment) -> Tolerances:
    refused = {f"{REJECTED_PREFIX}{number:03}@{env.domain}" for number in range(env.full_or_short(100, 20))}
    rules: list[dict[str, Any]] = [
        {"stage": "connect", "action": "reply", "reply": "421 4.3.2 too busy", "probability": 0.3, "seed": 1},
        {"stage": "rcpt", "recipient": f"{REJECTED_PREFIX}*", "action": "reply", "reply": "550 5.1.1 no such user"},
        {"stage": "rcpt", "action": "reply", "reply": "450 4.2.1 try later", "probability": 0.2, "seed": 2},
        {"stage": "data", "action": "reply", "reply": "451 4.3.0 try later", "probability": 0.2, "seed": 3},
    ]
    env.mail.set_faults(*rules)
    env.producer.enqueue(env.full_or_short(1000, 200))
    for recipient in sorted(refused):
        env.query(
            "SELECT backline.enqueue('email', %s, %s::jsonb)", recipient, '{"subject": "Never read", "text": "Never."}'
        )
    env.producer.record_accepted(*refused)
    with env.background_load():
        env.wait_received(env.full_or_short(1000, 200))
    env.mail.set_faults()
    env.wait_finalized()
    return Tolerances(0, frozenset(refused))


def _server_hangs(env: StackEnvironment) -> Tolerances:
    hung = env.full_or_short(8, 2)
    rules: list[dict[str, Any]] = [
        {"stage": stage, "action": "slow", "seconds": 120.0, "times": hung} for stage in ("mail", "data")
    ]
    env.mail.set_faults(*rules)
    with env.background_load():
        env.wait_received(env.full_or_short(1500, 300))
    env.wait_finalized()
    return Tolerances(0)


def _connection_drops(env: StackEnvironment) -> Tolerances:
    drops = env.full_or_short(40, 8)
    stored = {"stage": "data", "action": "drop", "after": True, "times": drops, "probability": 0.1, "seed": 1}
    discarded = {"stage": "data", "action": "drop", "times": drops, "probability": 0.1, "seed": 2}
    env.mail.set_faults(stored, discarded)
    with env.background_load():
        env.wait_received(env.full_or_short(1500, 300))
    env.wait_finalized()
    # Stored, but the response was never sent: only the mail server knows.
    return Tolerances(drops)


SCENARIOS = (
    Scenario("smtp-down", "the mail server is down for a minute", _server_down, MANY_ATTEMPTS),
    Scenario("smtp-answers", "the mail server returns a mix of 421, 450, 451 and 550", _error_replies, MANY_ATTEMPTS),
    Scenario(
        "smtp-hangs",
        "the mail server stops responding in the middle of a session",
        _server_hangs,
        {"BACKLINE__EMAIL__TIMEOUT_SECONDS": "5"},
    ),
    Scenario("smtp-drops", "connections drop after DATA, before or after the message was stored", _connection_drops),
)
