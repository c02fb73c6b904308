"""Dispatchers that are killed, told to end, frozen, or given a message that kills them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import psutil

from chaos.scenario import Scenario, Tolerances
from chaos.stack_environment import StackEnvironment

POISON_MODULE = '''"""A type with a fatal bug, as a wrong step in a C library would be."""

import os
import signal
from typing import ClassVar

from backline.channels.content import EmailContent
from backline.messages.base import EmailMessage
from backline.messages.registry import register


@register
class Poison(EmailMessage):
    """Kills the process that writes it."""

    type_name: ClassVar[str] = "poison"
    lanes: ClassVar = {"email": "email.normal"}

    def email(self) -> EmailContent:
        """Never returns."""
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError
'''


def _dispatcher_killed(arena: StackEnvironment) -> Tolerances:
    kills = arena.full_or_short(4, 1)
    arena.slow_mail_server()
    with arena.background_load():
        for _ in range(kills):
            _dispatcher_mid_drain(arena).kill()
    arena.mail.set_faults()
    arena.wait_finalized()
    return Tolerances(kills * arena.max_unconfirmed)


def _dispatcher_terminated(arena: StackEnvironment) -> Tolerances:
    arena.slow_mail_server()
    with arena.background_load():
        for _ in range(arena.full_or_short(4, 1)):
            process = _dispatcher_mid_drain(arena)
            process.terminate()
            arena.wait_until(partial(_has_ended, process), "the end of the dispatcher", 30)
    arena.mail.set_faults()
    arena.wait_finalized()
    return Tolerances(0)


def _stack_down(arena: StackEnvironment) -> Tolerances:
    for _ in range(arena.full_or_short(2, 1)):
        arena.slow_mail_server()
        _dispatcher_mid_drain(arena)
        arena.stack_copy.down()
        arena.stack_copy.up()
        arena.mail.set_faults()
        arena.wait_finalized()
    return Tolerances(0)


def _dispatcher_hangs(arena: StackEnvironment) -> Tolerances:
    arena.slow_mail_server()
    frozen = _dispatcher_mid_drain(arena)
    frozen.suspend()
    try:
        arena.mail.set_faults()
        arena.wait_finalized()
    finally:
        frozen.resume()
    arena.wait_until(partial(_has_ended, frozen), "the end of the dispatcher that hung", 60)
    return Tolerances(arena.max_unconfirmed)


def _expired_leases(arena: StackEnvironment) -> Tolerances:
    pauses = arena.full_or_short(3, 1)
    arena.slow_mail_server()
    for _ in range(pauses):
        frozen = _dispatcher_mid_drain(arena)
        held = _dispatchers_holding_messages(arena)
        frozen.suspend()
        try:
            arena.wait_until(partial(_hold_no_messages, arena, held), "others to take its messages over", 90)
        finally:
            frozen.resume()
    arena.mail.set_faults()
    arena.wait_finalized()
    return Tolerances(pauses * arena.max_unconfirmed)


def _poison_message(arena: StackEnvironment) -> Tolerances:
    poisoned = [arena.producer.recipient() for _ in range(arena.full_or_short(2, 1))]
    arena.slow_mail_server()
    arena.producer.enqueue(arena.full_or_short(500, 100))
    for recipient in poisoned:
        arena.query("SELECT backline.enqueue('poison', %s, '{}')", recipient)
        arena.producer.record_accepted(recipient)
    arena.producer.enqueue(arena.full_or_short(500, 100))
    arena.wait_finalized()
    arena.mail.set_faults()
    rescues = "SELECT sum(rescues) FROM backline.message WHERE type = 'poison' AND recipient = ANY (%s)"
    kills = int(arena.query(rescues, poisoned)[0][0])
    return Tolerances(kills * arena.max_unconfirmed, frozenset(poisoned))


def _dispatcher_mid_drain(arena: StackEnvironment) -> psutil.Process:
    """Enough to do for a while, some of it done; the dispatcher that holds most."""
    before = arena.received_count()
    arena.producer.enqueue(arena.full_or_short(1500, 600))
    arena.wait_received(before + 100)
    return arena.busiest_dispatcher()


def _has_ended(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def _hold_no_messages(arena: StackEnvironment, dispatchers: set[int]) -> bool:
    return not dispatchers & _dispatchers_holding_messages(arena)


def _dispatchers_holding_messages(arena: StackEnvironment) -> set[int]:
    """Who holds messages now, by the dispatchers' ids."""
    return {row[0] for row in arena.query("SELECT DISTINCT dispatcher FROM backline.message WHERE state = 'leased'")}


def _add_poison_type(project: Path) -> None:
    folder = project / "plugins" / "backline" / "messages" / "types"
    (folder / "poison.py").write_text(POISON_MODULE, encoding="utf-8")
    with (folder / "__init__.py").open("a", encoding="utf-8") as types:
        types.write('MODULES["poison"] = ("poison",)\n')


SCENARIOS = (
    Scenario("dispatcher-killed", "a dispatcher is SIGKILLed in mid-drain, again and again", _dispatcher_killed),
    Scenario("dispatcher-terminated", "a dispatcher's task gets SIGTERM in mid-drain", _dispatcher_terminated),
    Scenario("stack-down", "`./backline down` in mid-drain, then `up`", _stack_down),
    Scenario("dispatcher-hangs", "a dispatcher is frozen (SIGSTOP) until others have done its work", _dispatcher_hangs),
    Scenario(
        "expired-leases", "a frozen dispatcher comes back while another has its messages in hand", _expired_leases
    ),
    Scenario(
        "poison",
        "a message kills the process that sends it",
        _poison_message,
        {"BACKLINE__OUTBOX__MAX_RESCUES": "2", "BACKLINE__OUTBOX__HEARTBEAT_TIMEOUT_SECONDS": "5"},
        _add_poison_type,
    ),
)
