"""Each state's sentence, and the timeline, from rows as the database gives them."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from backline.errors import FailureClass
from backline.outbox.timeline import (
    FAILURE_REASONS,
    Attempt,
    AuditEntry,
    DeliveryEventRow,
    MessageRow,
    explain,
    timeline,
)

START = datetime(2026, 11, 22, 18, 0, 0, tzinfo=UTC)
MESSAGE_ROW = MessageRow(
    id=17, type="email", channel="email", lane="email.normal", priority=5, state="pending", recipient="ann@example.com",
    due_at=START, expires_at=None, attempt=0, max_attempts=6, rescues=0, leased_until=None, cancel_requested=False,
    rate_token_reserved=False, request_id=None, group_id=None, replay_of=None, created_at=START, finalized_at=None,
    error_class=None, error=None, provider_id=None, dispatchers=1, now=START + timedelta(seconds=30),
)  # fmt: skip
END = START + timedelta(seconds=5)


def an_attempt(number: int = 1, outcome: str = "sent", **details: object) -> Attempt:
    row = {
        "number": number, "started_at": START + timedelta(seconds=number), "duration_ms": 12.4, "outcome": outcome,
        "error_class": None, "code": None, "response": None, "dispatcher": 3, "dag_run": None,
    }  # fmt: skip
    return Attempt(**{**row, **details})  # type: ignore[arg-type]


def message_row(**changes: object) -> MessageRow:
    return replace(MESSAGE_ROW, **changes)  # type: ignore[arg-type]


def a_delivery_event(event: str, seconds: float = 60, **details: object) -> DeliveryEventRow:
    row = {
        "at": START + timedelta(seconds=seconds), "event": event, "hard": False, "source": "ses", "recipient": None,
        "detail": None, "until": None,
    }  # fmt: skip
    return DeliveryEventRow(**{**row, **details})  # type: ignore[arg-type]


CASES = {
    "sent": (
        message_row(state="sent", attempt=1, finalized_at=END),
        [an_attempt(code="250 2.0.0", response="2.0.0 Ok: queued")],
        [],
        "Sent at 2026-11-22 18:00:05 UTC by try 1; the far side answered '250 2.0.0 Ok: queued'.",
    ),
    "sent, of a type with secrets": (
        message_row(state="sent", attempt=2, finalized_at=END),
        [an_attempt(1, "scheduled", error_class="network"), an_attempt(2, code="250")],
        [],
        "Sent at 2026-11-22 18:00:05 UTC by try 2; the far side answered '250'.",
    ),
    "sent, its tries pruned": (
        message_row(state="sent", attempt=1, finalized_at=END),
        [],
        [],
        "Sent at 2026-11-22 18:00:05 UTC by try 1.",
    ),
    "sent, but not to all": (
        message_row(state="sent", attempt=1, finalized_at=END, error="bob@example.com was refused: 550 no such user"),
        [an_attempt(code="250")],
        [],
        (
            "Sent at 2026-11-22 18:00:05 UTC by try 1; the far side answered '250', but not to everybody: "
            "bob@example.com was refused: 550 no such user."
        ),
    ),
    "suppressed": (
        message_row(state="suppressed", finalized_at=END, error="unsubscribed from newsletter"),
        [],
        [],
        "Not sent: the recipient is not to be written to (unsubscribed from newsletter).",
    ),
    "cancelled by a person": (
        message_row(state="cancelled", finalized_at=END),
        [],
        [AuditEntry(END, "ben", "message.cancel")],
        "Not sent: ben cancelled it at 2026-11-22 18:00:05 UTC.",
    ),
    "cancelled by the app": (
        message_row(state="cancelled", finalized_at=END),
        [],
        [],
        "Not sent: it was cancelled at 2026-11-22 18:00:05 UTC.",
    ),
    "expired before any try": (
        message_row(state="expired", finalized_at=END, expires_at=START + timedelta(seconds=4)),
        [],
        [],
        "Not sent: its time was over at 2026-11-22 18:00:04 UTC.",
    ),
    "expired between tries": (
        message_row(state="expired", finalized_at=END, expires_at=START + timedelta(seconds=4), attempt=1),
        [an_attempt(1, "scheduled", error_class="network")],
        [],
        "Not sent: its time was over at 2026-11-22 18:00:04 UTC after 1 try failed.",
    ),
    "dead of a permanent cause": (
        message_row(state="dead", attempt=1, finalized_at=END, error_class="rejected", error="550 5.1.1 no such user"),
        [an_attempt(1, "dead", error_class="rejected")],
        [],
        (
            "Not sent: try 1 failed because the far side refused it for good (550 5.1.1 no such user); trying again would "
            "not help."
        ),
    ),
    "dead after its tries": (
        message_row(state="dead", attempt=6, finalized_at=END, error_class="network", error="could not connect"),
        [an_attempt(6, "dead", error_class="network")],
        [],
        (
            "Not sent: given up after 6 tries; the last failed because the far side could not be reached, or the "
            "connection broke (could not connect)."
        ),
    ),
    "dead because it kills": (
        message_row(
            state="dead", rescues=6, finalized_at=END, error_class="unknown", error="its dispatcher died 6 times"
        ),
        [],
        [],
        "Not sent, given up: its dispatcher died 6 times.",
    ),
    "dead of its last try, after a rescue": (
        message_row(
            state="dead", rescues=1, attempt=1, finalized_at=END, error_class="validation", error="no template"
        ),
        [an_attempt(1, "dead", error_class="validation")],
        [],
        "Not sent: try 1 failed because its content is wrong (no template); trying again would not help.",
    ),
    "scheduled for later": (
        message_row(state="scheduled", due_at=START + timedelta(days=1)),
        [],
        [],
        "Not sent yet: it is due at 2026-11-23 18:00:00 UTC.",
    ),
    "scheduled for another try": (
        message_row(state="scheduled", attempt=2, due_at=END, error_class="timeout", error="no answer in 30 s"),
        [an_attempt(2, "scheduled", error_class="timeout")],
        [],
        (
            "Not sent yet: try 2 of 6 failed because the far side did not answer in time (no answer in 30 s); the next is at "
            "2026-11-22 18:00:05 UTC."
        ),
    ),
    "scheduled because it was put off": (
        message_row(
            state="scheduled", due_at=END, error="quiet hours of the recipient, 21:00 to 08:00 in Europe/Berlin"
        ),
        [],
        [],
        (
            "Not sent yet: it was put off (quiet hours of the recipient, 21:00 to 08:00 in Europe/Berlin); it is due at "
            "2026-11-22 18:00:05 UTC."
        ),
    ),
    "scheduled by the domain's rate": (
        message_row(state="scheduled", rate_token_reserved=True, due_at=END),
        [],
        [],
        "Not sent yet: its recipient's domain is at its rate limit; its turn is at 2026-11-22 18:00:05 UTC.",
    ),
    "pending, served": (
        MESSAGE_ROW,
        [],
        [],
        "Not sent yet: it waits in lane email.normal, which 1 dispatcher serves now.",
    ),
    "pending, served by two": (
        message_row(dispatchers=2),
        [],
        [],
        "Not sent yet: it waits in lane email.normal, which 2 dispatchers serve now.",
    ),
    "pending, unserved": (
        message_row(dispatchers=0),
        [],
        [],
        (
            "Not sent yet: it waits in lane email.normal, which no dispatcher serves now; if Airflow runs, one starts within "
            "seconds."
        ),
    ),
    "pending after a failed try": (
        message_row(attempt=1, error_class="network", error="connection reset"),
        [an_attempt(1, "scheduled", error_class="network")],
        [],
        (
            "Not sent yet: try 1 of 6 failed because the far side could not be reached, or the connection broke "
            "(connection reset), and it waits in lane email.normal, which 1 dispatcher serves now."
        ),
    ),
    "pending after a rescue": (
        message_row(rescues=1),
        [],
        [],
        (
            "Not sent yet: its dispatcher died once, so it is sent by itself; it waits in lane email.normal, which 1 "
            "dispatcher serves now."
        ),
    ),
    "leased": (message_row(state="leased", leased_until=START + timedelta(minutes=1)), [], [], "Being sent now."),
    "leased and taken back": (
        message_row(state="leased", leased_until=START + timedelta(minutes=1), cancel_requested=True),
        [],
        [],
        "Being taken back: whoever holds it has been asked to; if it is on the wire already, it is sent.",
    ),
    "leased by one that is gone": (
        message_row(state="leased", leased_until=START),
        [],
        [],
        "Not sent yet: whoever was sending it has stopped answering; it returns to its lane within seconds.",
    ),
}


@pytest.mark.parametrize(("found", "attempts", "audit_entries", "sentence"), CASES.values(), ids=CASES)
def test_explanation(
    found: MessageRow, attempts: list[Attempt], audit_entries: list[AuditEntry], sentence: str
) -> None:
    assert explain(found, attempts, audit_entries) == sentence


def test_every_failure_class_has_its_words() -> None:
    assert set(FAILURE_REASONS) == set(FailureClass)


def test_a_timeline_tells_all_in_order() -> None:
    found = message_row(state="sent", attempt=2, finalized_at=END, request_id="r-1", replay_of=9)
    tries = [
        an_attempt(1, "scheduled", error_class="network", code="421", response="421 try\r\nlater"),
        an_attempt(2, code="250", response="250 Ok"),
    ]
    acts = [
        AuditEntry(START, "ann", "message.send"),
        AuditEntry(START + timedelta(seconds=1.5), "ben", "message.retry"),
    ]
    assert [(event.event, event.text) for event in timeline(found, tries, acts)] == [
        ("accepted", "taken in from ann by request r-1 for lane email.normal, as message 9 sent again"),
        ("try", ("try 1 of 6: failed, to be tried again, because the far side could not be reached, or the connection broke; "
                "answer: 421 try later (12 ms)")),
        ("retry", "revived by ben"),
        ("try", "try 2 of 6: sent; answer: 250 Ok (12 ms)"),
        ("sent", "sent"),
    ]  # fmt: skip


def test_a_timeline_says_what_is_not_kept_and_what_is_to_come() -> None:
    found = message_row(state="scheduled", attempt=3, rescues=2, due_at=END)
    events = timeline(found, [an_attempt(3, "scheduled", error_class="network")], [])
    assert [event.event for event in events] == ["accepted", "forgotten", "rescued", "try", "due"]
    assert [event.at for event in events] == [START, None, None, START + timedelta(seconds=3), END]
    assert events[1].text == "2 tries no longer kept in the history"
    assert events[2].text == "its dispatcher died 2 times while it held the message"


@pytest.mark.parametrize(
    ("dag_run", "path"),
    [
        (
            "dispatch_email/asset_triggered__2026+x",
            "/dags/dispatch_email/runs/asset_triggered__2026%2Bx/tasks/dispatch",
        ),
        ("send_welcome/manual/1", "/dags/send_welcome/runs/manual%2F1/tasks/send"),
        (None, None),
    ],
)
def test_a_try_knows_its_log(dag_run: str | None, path: str | None) -> None:
    assert an_attempt(dag_run=dag_run).log_path() == path


DELIVERY_EVENTS = {
    "nothing": ([], ""),
    "delivered": (
        [a_delivery_event("deferred", 30), a_delivery_event("delivered")],
        "; it was delivered at 2026-11-22 18:01:00 UTC (ses told)",
    ),
    "bounced": (
        [
            a_delivery_event("delivered", 30),
            a_delivery_event("bounced", hard=True, detail="smtp; 550 5.1.1 user unknown"),
        ],
        "; it bounced for good at 2026-11-22 18:01:00 UTC (ses told: smtp; 550 5.1.1 user unknown)",
    ),
    "complained": (
        [
            a_delivery_event("delivered", 30),
            a_delivery_event("complained", detail="abuse"),
            a_delivery_event("unsubscribed", 90),
        ],
        "; the recipient called it spam at 2026-11-22 18:01:00 UTC (ses told: abuse)",
    ),
    "unsubscribed": (
        [a_delivery_event("delivered", 30), a_delivery_event("unsubscribed", source="link", detail="topic newsletter")],
        "; the recipient unsubscribed at 2026-11-22 18:01:00 UTC (topic newsletter)",
    ),
}


@pytest.mark.parametrize(("later", "clause"), DELIVERY_EVENTS.values(), ids=DELIVERY_EVENTS)
def test_what_was_told_afterwards_ends_the_sentence(later: list[DeliveryEventRow], clause: str) -> None:
    found = message_row(state="sent", attempt=1, finalized_at=END)
    assert explain(found, [an_attempt(code="250")], [], later) == (
        f"Sent at 2026-11-22 18:00:05 UTC by try 1; the far side answered '250'{clause}."
    )


def test_what_befell_it_stands_in_the_timeline() -> None:
    until = START + timedelta(hours=9)
    later = [
        a_delivery_event("postponed", 1, source="preferences", detail="quiet hours of the recipient", until=until),
        a_delivery_event("deferred", 40_000, source="mailgun", detail="421 try later"),
        a_delivery_event("bounced", 50_000, source="mailgun", recipient="ann@example.com", hard=True),
    ]
    found = message_row(state="sent", attempt=1, finalized_at=until)
    assert [(event.event, event.text) for event in timeline(found, [], [], later)][1:] == [
        ("forgotten", "1 try no longer kept in the history"),
        ("postponed", "postponed until 2026-11-23 03:00:00 UTC: quiet hours of the recipient"),
        ("sent", "sent"),
        ("deferred", "its delivery was delayed (mailgun told: 421 try later)"),
        ("bounced", "it bounced for good (ann@example.com) (mailgun told)"),
    ]
