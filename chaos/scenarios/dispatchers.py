"""Dispatchers that are killed, terminated, frozen, or given a message that kills them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import psutil

from chaos.scenario import Scenario, Tolerances
from chaos.stack_environment import StackEnvironment

POISON_MODULE = '''"""A message type with a fatal bug, such as a crash in a C library."""

import os
import signal
from typing import ClassVar

from backline.channels.base import EmailContent
from backline.messages.base import EmailMessage
from backline.messages.registry import register


@register("poison", email="email.normal")
class Poison(EmailMessage):
    """Kills the process that renders it."""

    def email(self) -> EmailContent:
        """Never returns."""
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError
'''


def _dispatcher_killed(env: StackEnvironment) -> Tolerances:
    kills = env.full_or_short(4, 1)
    env.slow_mail_server()
    with env.background_load():
        for _ in range(kills):
            _dispatcher_mid_drain(env).kill()
    env.mail.set_faults()
    env.wait_finalized()
    return Tolerances(kills * env.max_unconfirmed)


def _dispatcher_terminated(env: StackEnvironment) -> Tolerances:
    env.slow_mail_server()
    with env.background_load():
        for _ in range(env.full_or_short(4, 1)):
            process = _dispatcher_mid_drain(env)
            process.terminate()
            env.wait_until(partial(_has_ended, process), "the end of the dispatcher", 30)
    env.mail.set_faults()
    env.wait_finalized()
    return Tolerances(0)


def _stack_down(env: StackEnvironment) -> Tolerances:
    for _ in range(env.full_or_short(2, 1)):
        env.slow_mail_server()
        _dispatcher_mid_drain(env)
        env.stack_copy.down()
        env.stack_copy.up()
        env.mail.set_faults()
        env.wait_finalized()
    return Tolerances(0)


def _dispatcher_hangs(env: StackEnvironment) -> Tolerances:
    env.slow_mail_server()
    frozen = _dispatcher_mid_drain(env)
    frozen.suspend()
    try:
        env.mail.set_faults()
        env.wait_finalized()
    finally:
        frozen.resume()
    env.wait_until(partial(_has_ended, frozen), "the end of the frozen dispatcher", 60)
    return Tolerances(env.max_unconfirmed)


def _expired_leases(env: StackEnvironment) -> Tolerances:
    pauses = env.full_or_short(3, 1)
    env.slow_mail_server()
    for _ in range(pauses):
        frozen = _dispatcher_mid_drain(env)
        held = _dispatchers_holding_messages(env)
        frozen.suspend()
        try:
            env.wait_until(partial(_hold_no_messages, env, held), "other dispatchers to take over its messages", 90)
        finally:
            frozen.resume()
    env.mail.set_faults()
    env.wait_finalized()
    return Tolerances(pauses * env.max_unconfirmed)


def _poison_message(env: StackEnvironment) -> Tolerances:
    poisoned = [env.producer.recipient() for _ in range(env.full_or_short(2, 1))]
    env.slow_mail_server()
    env.producer.enqueue(env.full_or_short(500, 100))
    for recipient in poisoned:
        env.query("SELECT backline.enqueue('poison', %s, '{}')", recipient)
        env.producer.record_accepted(recipient)
    env.producer.enqueue(env.full_or_short(500, 100))
    env.wait_finalized()
    env.mail.set_faults()
    rescues = "SELECT sum(rescues) FROM backline.message WHERE type = 'poison' AND recipient = ANY (%s)"
    kills = int(env.query(rescues, poisoned)[0][0])
    return Tolerances(kills * env.max_unconfirmed, frozenset(poisoned))


def _dispatcher_mid_drain(env: StackEnvironment) -> psutil.Process:
    """The busiest dispatcher, after it has sent part of a backlog."""
    before = env.received_count()
    env.producer.enqueue(env.full_or_short(1500, 600))
    env.wait_received(before + 100)
    return env.busiest_dispatcher()


def _has_ended(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def _hold_no_messages(env: StackEnvironment, dispatchers: set[int]) -> bool:
    return not dispatchers & _dispatchers_holding_messages(env)


def _dispatchers_holding_messages(env: StackEnvironment) -> set[int]:
    """The ids of the dispatchers that have leased messages."""
    return {row[0] for row in env.query("SELECT DISTINCT dispatcher FROM backline.message WHERE state = 'leased'")}


def _add_poison_type(project: Path) -> None:
    module = project / "plugins" / "backline" / "messages" / "types" / "poison.py"
    module.write_text(POISON_MODULE, encoding="utf-8")


SCENARIOS = (
    Scenario("dispatcher-killed", "a dispatcher is repeatedly SIGKILLed in mid-drain", _dispatcher_killed),
    Scenario("dispatcher-terminated", "a dispatcher's task gets SIGTERM in mid-drain", _dispatcher_terminated),
    Scenario("stack-down", "`./backline down` in mid-drain, then `up`", _stack_down),
    Scenario("dispatcher-hangs", "a dispatcher is frozen (SIGSTOP) until others have done its work", _dispatcher_hangs),
    Scenario("expired-leases", "a frozen dispatcher resumes after another has leased its messages", _expired_leases),
    Scenario(
        "poison",
        "a message kills the process that sends it",
        _poison_message,
        {"BACKLINE__OUTBOX__MAX_RESCUES": "2", "BACKLINE__OUTBOX__HEARTBEAT_TIMEOUT_SECONDS": "5"},
        _add_poison_type,
    ),
)
