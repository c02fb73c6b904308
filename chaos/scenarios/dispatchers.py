"""Dispatchers that are killed, told to end, frozen, or given a message that kills them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import psutil

from chaos.scenario import Bounds, Scenario
from chaos.stack_arena import StackArena

POISON = '''"""A type with a fatal bug, as a wrong step in a C library would be."""

import os
import signal
from typing import ClassVar

from backline.channels.email.content import EmailContent
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


def _killed(arena: StackArena) -> Bounds:
    kills = arena.pick(4, 1)
    arena.slow_mail()
    with arena.load():
        for _ in range(kills):
            _in_mid_drain(arena).kill()
    arena.mail.set_faults()
    arena.wait_ended()
    return Bounds(kills * arena.unconfirmed)


def _terminated(arena: StackArena) -> Bounds:
    arena.slow_mail()
    with arena.load():
        for _ in range(arena.pick(4, 1)):
            process = _in_mid_drain(arena)
            process.terminate()
            arena.wait(partial(_has_ended, process), "the end of the dispatcher", 30)
    arena.mail.set_faults()
    arena.wait_ended()
    return Bounds(0)


def _stack_down(arena: StackArena) -> Bounds:
    for _ in range(arena.pick(2, 1)):
        arena.slow_mail()
        _in_mid_drain(arena)
        arena.copy.down()
        arena.copy.up()
        arena.mail.set_faults()
        arena.wait_ended()
    return Bounds(0)


def _hangs(arena: StackArena) -> Bounds:
    arena.slow_mail()
    frozen = _in_mid_drain(arena)
    frozen.suspend()
    try:
        arena.mail.set_faults()
        arena.wait_ended()
    finally:
        frozen.resume()
    arena.wait(partial(_has_ended, frozen), "the end of the dispatcher that hung", 60)
    return Bounds(arena.unconfirmed)


def _expired_leases(arena: StackArena) -> Bounds:
    pauses = arena.pick(3, 1)
    arena.slow_mail()
    for _ in range(pauses):
        frozen = _in_mid_drain(arena)
        held = _held(arena)
        frozen.suspend()
        try:
            arena.wait(partial(_hold_nothing, arena, held), "others to take its messages over", 90)
        finally:
            frozen.resume()
    arena.mail.set_faults()
    arena.wait_ended()
    return Bounds(pauses * arena.unconfirmed)


def _poison(arena: StackArena) -> Bounds:
    poisoned = [arena.producer.recipient() for _ in range(arena.pick(2, 1))]
    arena.slow_mail()
    arena.producer.put(arena.pick(500, 100))
    for recipient in poisoned:
        arena.query("SELECT backline.enqueue('poison', %s, '{}')", recipient)
        arena.producer.accept(recipient)
    arena.producer.put(arena.pick(500, 100))
    arena.wait_ended()
    arena.mail.set_faults()
    rescues = "SELECT sum(rescues) FROM backline.message WHERE type = 'poison' AND recipient = ANY (%s)"
    kills = int(arena.query(rescues, poisoned)[0][0])
    return Bounds(kills * arena.unconfirmed, frozenset(poisoned))


def _in_mid_drain(arena: StackArena) -> psutil.Process:
    """Enough to do for a while, some of it done; the dispatcher that holds most."""
    before = arena.arrived()
    arena.producer.put(arena.pick(1500, 600))
    arena.wait_arrived(before + 100)
    return arena.dispatcher()


def _has_ended(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def _hold_nothing(arena: StackArena, dispatchers: set[int]) -> bool:
    return not dispatchers & _held(arena)


def _held(arena: StackArena) -> set[int]:
    """Who holds messages now, by the dispatchers' ids."""
    return {row[0] for row in arena.query("SELECT DISTINCT dispatcher FROM backline.message WHERE state = 'leased'")}


def _add_poison(project: Path) -> None:
    folder = project / "plugins" / "backline" / "messages" / "types"
    (folder / "poison.py").write_text(POISON, encoding="utf-8")
    with (folder / "__init__.py").open("a", encoding="utf-8") as types:
        types.write('MODULES["poison"] = ("poison",)\n')


SCENARIOS = (
    Scenario("dispatcher-killed", "a dispatcher is SIGKILLed in mid-drain, again and again", _killed),
    Scenario("dispatcher-terminated", "a dispatcher's task gets SIGTERM in mid-drain", _terminated),
    Scenario("stack-down", "`./backline down` in mid-drain, then `up`", _stack_down),
    Scenario("dispatcher-hangs", "a dispatcher is frozen (SIGSTOP) until others have done its work", _hangs),
    Scenario(
        "expired-leases", "a frozen dispatcher comes back while another has its messages in hand", _expired_leases
    ),
    Scenario(
        "poison",
        "a message kills the process that sends it",
        _poison,
        {"BACKLINE__OUTBOX__MAX_RESCUES": "2", "BACKLINE__OUTBOX__HEARTBEAT_TIMEOUT_SECONDS": "5"},
        _add_poison,
    ),
)
