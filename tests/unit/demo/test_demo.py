"""The demo's own logic: its table, its checks, and that it clears the mail server's fault rules."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

from backline.errors import NetworkFailure, Rejected
from backline.messages import registry
from backline.messages.base import EmailMessage, PushMessage, SmsMessage
from demo import failures, http_api
from demo.check import Check, CheckFailed, Result, require, wait_until
from demo.context import DemoContext
from demo.run import all_checks, run_checks
from demo.send_runs import email_mismatch, gateway_message_mismatch, sample_payload
from demo.table import NAME_WIDTH, CheckTable
from testkit.percentile import percentile
from testkit.sandbox_clients import ReceivedEmail


class FaultRecorder:
    """Records the fault rules that were set."""

    def __init__(self) -> None:
        self.rules: tuple[object, ...] = ("left over",)

    def set_faults(self, *rules: object) -> None:
        self.rules = rules


def run_demo(*checks: Check) -> tuple[int, str, FaultRecorder]:
    faults, output = FaultRecorder(), io.StringIO()
    paths = SimpleNamespace(log_folder=Path("/state/logs"))
    context = cast("DemoContext", SimpleNamespace(mail=faults, stack=SimpleNamespace(paths=paths)))
    passed = run_checks(context, checks, CheckTable(Console(file=output, soft_wrap=True)))
    return passed, output.getvalue(), faults


def passing_check(_: Any) -> Result:
    return Result("3 emails", "3 emails", [0.001] * 99 + [0.5])


def failing_check(_: Any) -> Result:
    raise CheckFailed("2 did not arrive", hint="the task's log")


def unreachable_check(_: Any) -> Result:
    raise NetworkFailure("the mail catcher does not answer")


def test_each_check_prints_a_line_and_passes_are_counted() -> None:
    passed, shown, faults = run_demo(
        Check("health", passing_check), Check("lost", failing_check), Check("away", unreachable_check, log_name="mail")
    )
    lines = shown.splitlines()
    assert passed == 1
    assert lines[1].split() == ["1", "ok", "health", "3", "emails", "3", "emails", "1.0", "/", "1.0", "0.0"]
    assert lines[2].split()[:3] == ["2", "FAILED", "lost"]
    assert lines[3].strip() == "why: 2 did not arrive"
    assert lines[4].strip() == "see: the task's log"
    assert lines[7].strip() == "see: /state/logs/mail.log"
    assert faults.rules == ()


def test_no_check_runs_on_an_unhealthy_stack() -> None:
    ran: list[str] = []

    def note(_: Any) -> Result:
        ran.append("ran")
        return Result("", "")

    passed, shown, _ = run_demo(
        Check("health", unreachable_check), Check("other", note, lambda _: ran.append("prepared"))
    )
    assert (passed, ran) == (0, [])
    assert shown.count("FAILED") == 2


def test_a_failed_preparation_is_shown_in_its_checks_line() -> None:
    def unready(_: Any) -> None:
        raise CheckFailed("could not begin")

    passed, shown, _ = run_demo(
        Check("health", passing_check), Check("late", passing_check, unready), Check("third", passing_check)
    )
    assert passed == 2
    assert "FAILED late" in shown
    assert "why: could not begin" in shown


def test_an_interruption_clears_the_fault_rules() -> None:
    seen: list[FaultRecorder] = []

    def interrupted(context: Any) -> Result:
        context.mail.set_faults({"stage": "rcpt"})
        seen.append(context.mail)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_demo(Check("health", interrupted))
    assert seen[0].rules == ()


def test_there_are_at_least_twelve_checks_with_unique_names() -> None:
    names = [check.name for check in all_checks()]
    assert len(names) >= 12
    assert len(set(names)) == len(names)
    assert any("send_welcome " in name for name in names)
    assert "email, SMS and push by SQL arrive" in names


@pytest.mark.parametrize(
    "kind", [kind for kind in registry.all_types() if "email" in kind.channels], ids=lambda kind: kind.type_name
)
def test_all_parts_of_an_email_are_compared(kind: type[EmailMessage]) -> None:
    payload = sample_payload(kind)
    content = kind.parse(payload).email()
    good = ReceivedEmail(("ann@example.com",), content.subject or "", content.text or "", content.html or "")

    def problem(**change: Any) -> str | None:
        parts = {name: getattr(good, name) for name in ReceivedEmail.__slots__}
        return email_mismatch(kind, payload, "ann@example.com", ReceivedEmail(**parts | change))

    assert problem() is None
    assert "went to" in str(problem(recipients=("bob@example.com",)))
    assert "subject" in str(problem(subject="Other"))
    assert "no HTML part" in str(problem(html=""))
    last = content.text.splitlines()[-1] if content.text else ""
    assert "text part lacks" in str(problem(text=good.text.replace(last, "something else")))


def test_percentiles_are_measured_values() -> None:
    values = [float(number) for number in range(1, 201)]
    assert (percentile(values, 0.5), percentile(values, 0.99), percentile([7.0], 0.99)) == (100.0, 198.0, 7.0)


def test_waiting_times_out() -> None:
    answers = iter([None, 0, 5])
    assert wait_until(lambda: next(answers), "five") == 5
    with pytest.raises(CheckFailed, match="timed out after 0 s waiting for a condition"):
        wait_until(lambda: False, "a condition", 0.0)
    with pytest.raises(CheckFailed, match="no"):
        require([], "no")


def test_names_fit_the_table() -> None:
    assert [check.name for check in all_checks() if len(check.name) > NAME_WIDTH] == []


class FakeHttp:
    """Returns a given response to a batch of two."""

    def __init__(self, answer: Rejected | None) -> None:
        self.answer = answer

    def post(self, path: str, body: Any) -> tuple[int, dict[str, Any]]:
        assert (path, len(body)) == (http_api.MESSAGES_PATH, 2)
        if self.answer is not None:
            raise self.answer
        return 202, {"messages": [{"id": 1, "url": "/1"}, {"id": 2, "url": "/2"}]}


def check_rejected_batch(answer: Rejected | None, left: int = 0) -> Result:
    context = SimpleNamespace(
        airflow=FakeHttp(answer),
        domain=lambda name: f"{name}.example.com",
        query=lambda *_, **__: [{"id": 1}] * left,
        started_at=None,
    )
    [check] = [check for check in http_api.checks() if "invalid" in check.name]
    return check.run(cast("DemoContext", context))


def validation_error(*errors: tuple[int, str], code: str = "422") -> Rejected:
    named = [{"index": index, "field": field, "detail": "is wrong"} for index, field in errors]
    return Rejected("rejected", code=code, response=json.dumps({"errors": named}))


def test_a_rejected_batch_must_name_the_field_and_store_nothing() -> None:
    assert "`to`" in check_rejected_batch(validation_error((1, "to"))).actual
    with pytest.raises(CheckFailed, match="was accepted"):
        check_rejected_batch(None)
    with pytest.raises(CheckFailed, match="does not name only"):
        check_rejected_batch(validation_error((0, "to")))
    with pytest.raises(CheckFailed, match="does not name only"):
        check_rejected_batch(validation_error((1, "to"), (0, "payload.name")))
    with pytest.raises(CheckFailed, match="400 instead of 422"):
        check_rejected_batch(validation_error((1, "to"), code="400"))
    with pytest.raises(CheckFailed, match="1 messages of the rejected batch"):
        check_rejected_batch(validation_error((1, "to")), left=1)


def test_the_body_over_http_is_valid() -> None:
    assert http_api.message_body("ann@example.com").keys() == {"type", "to", "payload"}
    kind = registry.get(http_api.message_body("ann@example.com")["type"])
    kind.parse(http_api.message_body("ann@example.com")["payload"])


class FailedRunContext:
    """The state after a failed run: its dead letters, when their group was last emailed, and the emails since."""

    def __init__(self, letters: int, *, alerted: bool, mailed_minutes: float, mails: int) -> None:
        self.started_at = datetime.now(UTC)
        self.since = self.started_at.timestamp()
        seen = self.started_at + timedelta(minutes=1)
        letter = {
            "recorded_after_seconds": 2.0,
            "first_seen_at": seen,
            "alerted_at": seen if alerted else None,
            "emailed_at": seen + timedelta(minutes=mailed_minutes),
        }
        self.rows = [letter] * letters
        subjects = ["[Backline] other", *["[Backline] send_email.send failed (validation)"] * mails]
        self.mail = SimpleNamespace(list_emails=lambda *_: [SimpleNamespace(subject=subject) for subject in subjects])

    def run_id(self, name: str) -> str:
        return name

    def query(self, *_: str, **__: Any) -> list[dict[str, Any]]:
        return self.rows


def check_alert(letters: int = 1, *, alerted: bool = True, mailed_minutes: float = 0.1, mails: int = 1) -> Result:
    [check] = [check for check in failures.checks() if "failed run" in check.name]
    context = FailedRunContext(letters, alerted=alerted, mailed_minutes=mailed_minutes, mails=mails)
    return check.run(cast("DemoContext", context))


def test_a_failed_run_has_one_dead_letter_and_one_email_per_window() -> None:
    assert check_alert().actual == "after 2.0 s, 1 email"
    with pytest.raises(CheckFailed, match="2 dead letters instead of 1"):
        check_alert(2)
    with pytest.raises(CheckFailed, match="2 alerts arrived instead of 1"):
        check_alert(mails=2)
    with pytest.raises(CheckFailed, match="0 alerts arrived instead of 1"):
        check_alert(mails=0)


def test_an_earlier_email_counts_for_its_window() -> None:
    assert check_alert(alerted=False, mailed_minutes=-12, mails=0).actual == "1, email 12 min before"
    with pytest.raises(CheckFailed, match="1 alerts arrived instead of 0"):
        check_alert(alerted=False, mailed_minutes=-12)
    # Alerts left by an earlier demo were sent when this one started.
    assert check_alert(alerted=False, mailed_minutes=-0.5, mails=1).actual == "1, email 0 min before"


@pytest.mark.parametrize(
    ("name", "channel"),
    [
        (kind.type_name, channel)
        for kind in registry.all_types()
        for channel in kind.channels
        if channel in {"sms", "push"}
    ],
)
def test_title_and_text_of_sms_and_push_are_compared(name: str, channel: str) -> None:
    kind = registry.get(name)
    message = kind.parse(sample_payload(kind))
    if isinstance(message, PushMessage):
        good = {"title": message.push().title, "text": message.push().body}
    else:
        assert isinstance(message, SmsMessage)
        good = {"title": "", "text": message.sms()}
    assert gateway_message_mismatch(kind, sample_payload(kind), channel, good) is None
    assert "its title and text" in str(
        gateway_message_mismatch(kind, sample_payload(kind), channel, {**good, "text": "Other"})
    )
    assert "has no" in str(gateway_message_mismatch(registry.get("welcome"), {"name": "Ann"}, channel, good))
