"""Each state's sentence, and the timeline, from rows as the database returns them."""

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
        "Sent at 2026-11-22 18:00:05 UTC by attempt 1; the provider answered '250 2.0.0 Ok: queued'.",
    ),
    "sent, of a type with secrets": (
        message_row(state="sent", attempt=2, finalized_at=END),
        [an_attempt(1, "scheduled", error_class="network"), an_attempt(2, code="250")],
        [],
        "Sent at 2026-11-22 18:00:05 UTC by attempt 2; the provider answered '250'.",
    ),
    "sent, its attempts pruned": (
        message_row(state="sent", attempt=1, finalized_at=END),
        [],
        [],
        "Sent at 2026-11-22 18:00:05 UTC by attempt 1.",
    ),
    "sent, but not to all": (
        message_row(state="sent", attempt=1, finalized_at=END, error="bob@example.com was refused: 550 no such user"),
        [an_attempt(code="250")],
        [],
        (
            "Sent at 2026-11-22 18:00:05 UTC by attempt 1; the provider answered '250', but not to all recipients: "
            "bob@example.com was refused: 550 no such user."
        ),
    ),
    "suppressed": (
        message_row(state="suppressed", finalized_at=END, error="unsubscribed from newsletter"),
        [],
        [],
        "Not sent: the recipient is suppressed or has opted out (unsubscribed from newsletter).",
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
    "expired before any attempt": (
        message_row(state="expired", finalized_at=END, expires_at=START + timedelta(seconds=4)),
        [],
        [],
        "Not sent: it expired at 2026-11-22 18:00:04 UTC.",
    ),
    "expired between attempts": (
        message_row(state="expired", finalized_at=END, expires_at=START + timedelta(seconds=4), attempt=1),
        [an_attempt(1, "scheduled", error_class="network")],
        [],
        "Not sent: it expired at 2026-11-22 18:00:04 UTC after 1 attempt failed.",
    ),
    "dead of a permanent cause": (
        message_row(state="dead", attempt=1, finalized_at=END, error_class="rejected", error="550 5.1.1 no such user"),
        [an_attempt(1, "dead", error_class="rejected")],
        [],
        (
            "Not sent: attempt 1 failed because the provider rejected it permanently (550 5.1.1 no such user); a retry would "
            "not help."
        ),
    ),
    "dead after its attempts": (
        message_row(state="dead", attempt=6, finalized_at=END, error_class="network", error="could not connect"),
        [an_attempt(6, "dead", error_class="network")],
        [],
        (
            "Not sent: given up after 6 attempts; the last failed because the provider could not be reached, or the "
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
    "dead of its last attempt, after a rescue": (
        message_row(
            state="dead", rescues=1, attempt=1, finalized_at=END, error_class="validation", error="no template"
        ),
        [an_attempt(1, "dead", error_class="validation")],
        [],
        "Not sent: attempt 1 failed because its content is invalid (no template); a retry would not help.",
    ),
    "scheduled for later": (
        message_row(state="scheduled", due_at=START + timedelta(days=1)),
        [],
        [],
        "Not sent yet: it is due at 2026-11-23 18:00:00 UTC.",
    ),
    "scheduled for another attempt": (
        message_row(state="scheduled", attempt=2, due_at=END, error_class="timeout", error="no answer in 30 s"),
        [an_attempt(2, "scheduled", error_class="timeout")],
        [],
        (
            "Not sent yet: attempt 2 of 6 failed because the provider did not answer in time (no answer in 30 s); the next is at "
            "2026-11-22 18:00:05 UTC."
        ),
    ),
    "scheduled because it was postponed": (
        message_row(
            state="scheduled", due_at=END, error="quiet hours of the recipient, 21:00 to 08:00 in Europe/Berlin"
        ),
        [],
        [],
        (
            "Not sent yet: it was postponed (quiet hours of the recipient, 21:00 to 08:00 in Europe/Berlin); it is due at "
            "2026-11-22 18:00:05 UTC."
        ),
    ),
    "scheduled by the domain's rate": (
        message_row(state="scheduled", rate_token_reserved=True, due_at=END),
        [],
        [],
        "Not sent yet: its recipient's domain is at its rate limit; it is due at 2026-11-22 18:00:05 UTC.",
    ),
    "pending, served": (
        MESSAGE_ROW,
        [],
        [],
        "Not sent yet: it waits in lane email.normal, which has 1 dispatcher now.",
    ),
    "pending, served by two": (
        message_row(dispatchers=2),
        [],
        [],
        "Not sent yet: it waits in lane email.normal, which has 2 dispatchers now.",
    ),
    "pending, unserved": (
        message_row(dispatchers=0),
        [],
        [],
        (
            "Not sent yet: it waits in lane email.normal, which has no dispatcher now; if Airflow runs, one starts within "
            "seconds."
        ),
    ),
    "pending after a failed attempt": (
        message_row(attempt=1, error_class="network", error="connection reset"),
        [an_attempt(1, "scheduled", error_class="network")],
        [],
        (
            "Not sent yet: attempt 1 of 6 failed because the provider could not be reached, or the connection broke "
            "(connection reset), and it waits in lane email.normal, which has 1 dispatcher now."
        ),
    ),
    "pending after a rescue": (
        message_row(rescues=1),
        [],
        [],
        (
            "Not sent yet: its dispatcher died once, so it is sent alone; it waits in lane email.normal, which has 1 "
            "dispatcher now."
        ),
    ),
    "leased": (message_row(state="leased", leased_until=START + timedelta(minutes=1)), [], [], "Being sent now."),
    "leased, cancellation requested": (
        message_row(state="leased", leased_until=START + timedelta(minutes=1), cancel_requested=True),
        [],
        [],
        "Being cancelled: its dispatcher was asked to drop it; if it is being sent already, it is sent.",
    ),
    "leased by a dead process": (
        message_row(state="leased", leased_until=START),
        [],
        [],
        "Not sent yet: the process that was sending it no longer responds; it returns to its lane within seconds.",
    ),
}


@pytest.mark.parametrize(("found", "attempts", "audit_entries", "sentence"), CASES.values(), ids=CASES)
def test_explanation(
    found: MessageRow, attempts: list[Attempt], audit_entries: list[AuditEntry], sentence: str
) -> None:
    assert explain(found, attempts, audit_entries) == sentence


def test_every_failure_class_has_a_text() -> None:
    assert set(FAILURE_REASONS) == set(FailureClass)


def test_a_timeline_is_in_order() -> None:
    found = message_row(state="sent", attempt=2, finalized_at=END, request_id="r-1", replay_of=9)
    attempts = [
        an_attempt(1, "scheduled", error_class="network", code="421", response="421 try\r\nlater"),
        an_attempt(2, code="250", response="250 Ok"),
    ]
    audit_entries = [
        AuditEntry(START, "ann", "message.send"),
        AuditEntry(START + timedelta(seconds=1.5), "ben", "message.retry"),
    ]
    assert [(event.event, event.text) for event in timeline(found, attempts, audit_entries)] == [
        ("accepted", "accepted from ann by request r-1 for lane email.normal, as a replay of message 9"),
        ("attempt", ("attempt 1 of 6: failed, to be retried, because the provider could not be reached, or the connection broke; "
                "answer: 421 try later (12 ms)")),
        ("retry", "retried by ben"),
        ("attempt", "attempt 2 of 6: sent; answer: 250 Ok (12 ms)"),
        ("sent", "sent"),
    ]  # fmt: skip


def test_a_timeline_lists_pruned_attempts_and_what_is_due() -> None:
    found = message_row(state="scheduled", attempt=3, rescues=2, due_at=END)
    events = timeline(found, [an_attempt(3, "scheduled", error_class="network")], [])
    assert [event.event for event in events] == ["accepted", "pruned", "rescued", "attempt", "due"]
    assert [event.at for event in events] == [START, None, None, START + timedelta(seconds=3), END]
    assert events[1].text == "2 attempts no longer in the history"
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
def test_an_attempt_knows_its_log(dag_run: str | None, path: str | None) -> None:
    assert an_attempt(dag_run=dag_run).log_path() == path


DELIVERY_EVENTS = {
    "nothing": ([], ""),
    "delivered": (
        [a_delivery_event("deferred", 30), a_delivery_event("delivered")],
        "; it was delivered at 2026-11-22 18:01:00 UTC (reported by ses)",
    ),
    "bounced": (
        [
            a_delivery_event("delivered", 30),
            a_delivery_event("bounced", hard=True, detail="smtp; 550 5.1.1 user unknown"),
        ],
        "; it bounced permanently at 2026-11-22 18:01:00 UTC (reported by ses: smtp; 550 5.1.1 user unknown)",
    ),
    "complained": (
        [
            a_delivery_event("delivered", 30),
            a_delivery_event("complained", detail="abuse"),
            a_delivery_event("unsubscribed", 90),
        ],
        "; the recipient reported it as spam at 2026-11-22 18:01:00 UTC (reported by ses: abuse)",
    ),
    "unsubscribed": (
        [a_delivery_event("delivered", 30), a_delivery_event("unsubscribed", source="link", detail="topic newsletter")],
        "; the recipient unsubscribed at 2026-11-22 18:01:00 UTC (topic newsletter)",
    ),
}


@pytest.mark.parametrize(("later", "clause"), DELIVERY_EVENTS.values(), ids=DELIVERY_EVENTS)
def test_delivery_events_end_the_sentence(later: list[DeliveryEventRow], clause: str) -> None:
    found = message_row(state="sent", attempt=1, finalized_at=END)
    assert explain(found, [an_attempt(code="250")], [], later) == (
        f"Sent at 2026-11-22 18:00:05 UTC by attempt 1; the provider answered '250'{clause}."
    )


def test_delivery_events_are_in_the_timeline() -> None:
    until = START + timedelta(hours=9)
    later = [
        a_delivery_event("postponed", 1, source="preferences", detail="quiet hours of the recipient", until=until),
        a_delivery_event("deferred", 40_000, source="mailgun", detail="421 try later"),
        a_delivery_event("bounced", 50_000, source="mailgun", recipient="ann@example.com", hard=True),
    ]
    found = message_row(state="sent", attempt=1, finalized_at=until)
    assert [(event.event, event.text) for event in timeline(found, [], [], later)][1:] == [
        ("pruned", "1 attempt no longer in the history"),
        ("postponed", "postponed until 2026-11-23 03:00:00 UTC: quiet hours of the recipient"),
        ("sent", "sent"),
        ("deferred", "its delivery was delayed (reported by mailgun: 421 try later)"),
        ("bounced", "it bounced permanently (ann@example.com) (reported by mailgun)"),
    ]
