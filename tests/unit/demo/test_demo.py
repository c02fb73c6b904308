"""The demo's own logic: its table, its verdict, and that it leaves the mail server well."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

from backline.demo.check import Check, CheckFailed, Result, percentile, require, until
from backline.demo.mail import Letter
from backline.demo.run import all_checks, run_checks
from backline.demo.sends import content_problem, sample
from backline.demo.table import Table
from backline.demo.world import World
from backline.errors import NetworkFailure
from backline.messages import registry
from backline.messages.base import EmailMessage


class Switches:
    """Notes what the mail server's faults were set to."""

    def __init__(self) -> None:
        self.now: tuple[object, ...] = ("left over",)

    def set_faults(self, *rules: object) -> None:
        self.now = rules


def demo(*checks: Check) -> tuple[int, str, Switches]:
    switches, output = Switches(), io.StringIO()
    paths = SimpleNamespace(logs=Path("/state/logs"))
    world = cast("World", SimpleNamespace(mail=switches, stack=SimpleNamespace(paths=paths)))
    passed = run_checks(world, checks, Table(Console(file=output, soft_wrap=True)))
    return passed, output.getvalue(), switches


def well(_: Any) -> Result:
    return Result("3 mails", "3 mails", [0.001] * 99 + [0.5])


def lost(_: Any) -> Result:
    raise CheckFailed("2 did not arrive", look="the task's log")


def away(_: Any) -> Result:
    raise NetworkFailure("the mail catcher does not answer")


def test_a_line_for_each_check_and_the_number_that_passed() -> None:
    passed, shown, switches = demo(Check("health", well), Check("lost", lost), Check("away", away, log="mail"))
    lines = shown.splitlines()
    assert passed == 1
    assert lines[1].split() == ["1", "ok", "health", "3", "mails", "3", "mails", "1.0", "/", "1.0", "0.0"]
    assert lines[2].split()[:3] == ["2", "FAILED", "lost"]
    assert lines[3].strip() == "why: 2 did not arrive"
    assert lines[4].strip() == "see: the task's log"
    assert lines[7].strip() == "see: /state/logs/mail.log"
    assert switches.now == ()


def test_nothing_runs_on_a_stack_that_is_not_healthy() -> None:
    ran: list[str] = []

    def note(_: Any) -> Result:
        ran.append("ran")
        return Result("", "")

    passed, shown, _ = demo(Check("health", away), Check("other", note, lambda _: ran.append("prepared")))
    assert (passed, ran) == (0, [])
    assert shown.count("FAILED") == 2


def test_what_cannot_be_prepared_fails_in_its_own_line() -> None:
    def unready(_: Any) -> None:
        raise CheckFailed("could not begin")

    passed, shown, _ = demo(Check("health", well), Check("late", well, unready), Check("third", well))
    assert passed == 2
    assert "FAILED late" in shown
    assert "why: could not begin" in shown


def test_an_interruption_leaves_the_mail_server_well() -> None:
    seen: list[Switches] = []

    def interrupted(world: Any) -> Result:
        world.mail.set_faults({"stage": "rcpt"})
        seen.append(world.mail)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        demo(Check("health", interrupted))
    assert seen[0].now == ()


def test_there_are_at_least_twelve_checks_with_names_of_their_own() -> None:
    names = [check.name for check in all_checks()]
    assert len(names) >= 12
    assert len(set(names)) == len(names)
    assert any("send_welcome " in name for name in names)
    assert "every message type by SQL arrives" in names


@pytest.mark.parametrize("kind", registry.all_types(), ids=lambda kind: kind.type_name)
def test_a_letter_is_judged_by_all_its_parts(kind: type[EmailMessage]) -> None:
    payload = sample(kind)
    content = kind.parse(payload).email()
    good = Letter(("ann@example.com",), content.subject or "", content.text or "", content.html or "")

    def problem(**change: Any) -> str | None:
        parts = {name: getattr(good, name) for name in Letter.__slots__}
        return content_problem(kind, payload, "ann@example.com", Letter(**parts | change))

    assert problem() is None
    assert "went to" in str(problem(recipients=("bob@example.com",)))
    assert "subject" in str(problem(subject="Other"))
    assert "no HTML part" in str(problem(html=""))
    last = content.text.splitlines()[-1] if content.text else ""
    assert "text part lacks" in str(problem(text=good.text.replace(last, "something else")))


def test_percentiles_are_values_that_were_measured() -> None:
    values = [float(number) for number in range(1, 201)]
    assert (percentile(values, 0.5), percentile(values, 0.99), percentile([7.0], 0.99)) == (100.0, 198.0, 7.0)


def test_waiting_ends() -> None:
    answers = iter([None, 0, 5])
    assert until(lambda: next(answers), "five") == 5
    with pytest.raises(CheckFailed, match="never: not within 0 s"):
        until(lambda: False, "never", 0.0)
    with pytest.raises(CheckFailed, match="no"):
        require([], "no")
