"""A message's timeline, and one sentence that explains why it was or was not sent. Pure functions over rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import quote

from backline.channels.base import ALL_ENDPOINTS
from backline.errors import PERMANENT_CLASSES, FailureClass

FAILURE_REASONS: Mapping[str, str] = {
    FailureClass.TIMEOUT: "the provider did not answer in time",
    FailureClass.NETWORK: "the provider could not be reached, or the connection broke",
    FailureClass.DATABASE: "the database was not available",
    FailureClass.RATE_LIMITED: "the provider asked us to slow down",
    FailureClass.VALIDATION: "its content is invalid",
    FailureClass.AUTHENTICATION: "our credentials were refused",
    FailureClass.RESOURCE: "the provider, or this host, is out of a resource",
    FailureClass.REJECTED: "the provider rejected it permanently",
    FailureClass.UNKNOWN: "of an unexpected error",
}
"""Each failure class, in words that follow "because"."""
RESCUED = "rescued"
"""The outcome of an attempt that did not end: the process that held the message died or lost its lease."""
_FINAL_STATE_TEXT = {
    "sent": "sent",
    "suppressed": "not sent: the recipient is suppressed or has opted out",
    "cancelled": "cancelled before it was sent",
    "expired": "expired before it could be sent",
    "dead": "given up",
}
_DELIVERY_EVENT_TEXT = {
    "delivered": "it was delivered",
    "deferred": "its delivery was delayed",
    "rejected": "the provider did not pass it on",
    "bounced": "it bounced",
    "complained": "the recipient reported it as spam",
    "unsubscribed": "the recipient unsubscribed",
    "resubscribed": "the recipient subscribed again",
}
_ACTION_TEXT = {
    "message.cancel": "cancelled",
    "message.retry": "retried",
    "message.replay": "sent again as a new message",
}


@dataclass(frozen=True, slots=True)
class MessageRow:
    """A message's row without its payload. All times are the database's."""

    id: int
    type: str
    channel: str
    lane: str
    priority: int
    state: str
    recipient: str
    due_at: datetime
    expires_at: datetime | None
    attempt: int
    max_attempts: int
    rescues: int
    leased_until: datetime | None
    cancel_requested: bool
    rate_token_reserved: bool
    request_id: str | None
    group_id: int | None
    replay_of: int | None
    created_at: datetime
    finalized_at: datetime | None
    error_class: str | None
    error: str | None
    provider_id: str | None
    dispatchers: int
    """How many dispatchers serve its lane now."""
    now: datetime
    """The database's clock when the row was read."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt: a row of backline.attempt."""

    number: int
    started_at: datetime
    duration_ms: float
    outcome: str
    error_class: str | None
    code: str | None
    response: str | None
    dispatcher: int | None
    dag_run: str | None
    process_end: str | None = None
    """Of a rescue: how the process that held the message ended, if its task's failure is known."""

    def log_path(self) -> str | None:
        """The path of the attempt's task log in Airflow's UI; None if no run made the attempt."""
        dag_id, _, run_id = (self.dag_run or "").partition("/")
        if not run_id:
            return None
        task = "dispatch" if dag_id.startswith("dispatch_") else "send"
        return f"/dags/{quote(dag_id)}/runs/{quote(run_id, safe='')}/tasks/{task}"


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """What a user did to the message: a row of the audit trail."""

    at: datetime
    actor: str
    action: str


@dataclass(frozen=True, slots=True)
class DeliveryEventRow:
    """What happened besides its attempts: postponed by preferences, or reported afterwards. A row of backline.delivery_event."""

    at: datetime
    event: str
    hard: bool
    source: str
    recipient: str | None
    detail: str | None
    until: datetime | None


@dataclass(frozen=True, slots=True)
class TimelineEvent:
    """One line of the timeline. `at` is None where the time is not stored."""

    at: datetime | None
    event: str
    text: str
    attempt: Attempt | None = None


def explain(
    message: MessageRow,
    attempts: Sequence[Attempt],
    audit_entries: Sequence[AuditEntry],
    delivery_events: Sequence[DeliveryEventRow] = (),
) -> str:
    """Why the message was or was not sent, in one sentence."""
    attempts = [attempt for attempt in attempts if attempt.outcome != RESCUED]
    ended_at = format_time(message.finalized_at)
    if message.channel == "webhook" and message.recipient == ALL_ENDPOINTS:
        # It is final at once; the messages of its group are sent.
        if message.state != "sent":
            return f"Not sent: {message.error}."
        return f"Fanned out at {ended_at} to {message.provider_id}: group {message.id} has a message for each."
    match message.state:
        case "sent":
            return _explain_sent(message, attempts, delivery_events)
        case "suppressed":
            return f"Not sent: the recipient is suppressed or has opted out{_in_parentheses(message.error)}."
        case "cancelled":
            by = next((entry.actor for entry in reversed(audit_entries) if entry.action == "message.cancel"), None)
            return f"Not sent: {by + ' cancelled it' if by else 'it was cancelled'} at {ended_at}."
        case "expired":
            before = f" after {_attempts_text(message.attempt)} failed" if message.attempt else ""
            return f"Not sent: it expired at {format_time(message.expires_at or message.finalized_at)}{before}."
        case "dead":
            return _explain_dead(message, attempts)
        case "scheduled":
            return _explain_scheduled(message, attempts)
        case "pending":
            return _explain_pending(message)
        case _:
            return _explain_leased(message)


def timeline(
    message: MessageRow,
    attempts: Sequence[Attempt],
    audit_entries: Sequence[AuditEntry],
    delivery_events: Sequence[DeliveryEventRow] = (),
) -> list[TimelineEvent]:
    """What happened to the message, in order; what is still to come is last."""
    sender = next((f" from {entry.actor}" for entry in audit_entries if entry.action == "message.send"), "")
    request = f" by request {message.request_id}" if message.request_id else ""
    replay = f", as a replay of message {message.replay_of}" if message.replay_of else ""
    events = [
        TimelineEvent(message.created_at, "accepted", f"accepted{sender}{request} for lane {message.lane}{replay}")
    ]
    rescues = sum(attempt.outcome == RESCUED for attempt in attempts)
    if message.attempt > len(attempts) - rescues:
        pruned = f"{_attempts_text(message.attempt - len(attempts) + rescues)} no longer in the history"
        events.append(TimelineEvent(None, "pruned", pruned))
    if message.rescues > rescues:
        rescued = f"its dispatcher died {_times_text(message.rescues - rescues)} while it held the message"
        events.append(TimelineEvent(None, RESCUED, rescued))
    dated = [
        *(_rescue(one) if one.outcome == RESCUED else _attempt_event(message, one) for one in attempts),
        *(
            TimelineEvent(entry.at, entry.action.removeprefix("message."), f"{what} by {entry.actor}")
            for entry in audit_entries
            if (what := _ACTION_TEXT.get(entry.action))
        ),
    ]
    if message.finalized_at is not None:
        text = _FINAL_STATE_TEXT.get(message.state, message.state) + _in_parentheses(message.error)
        dated.append(TimelineEvent(message.finalized_at, message.state, text))
    dated += [_delivery_event(one) for one in delivery_events]
    # A stable sort: an attempt and the final state that it caused keep their order.
    events += sorted(dated, key=lambda event: event.at or message.now)
    if message.state == "scheduled":
        events.append(TimelineEvent(message.due_at, "due", "due to be sent"))
    return events


def format_time(at: datetime | None) -> str:
    """A time in its own zone: 2026-11-22 18:20:03 UTC."""
    return at.strftime("%Y-%m-%d %H:%M:%S %Z") if at else "an unknown time"


def _explain_sent(message: MessageRow, attempts: Sequence[Attempt], delivery_events: Sequence[DeliveryEventRow]) -> str:
    response = _response_text(attempts[-1]) if attempts else ""
    answered = f"; the provider answered {response!r}" if response else ""
    partly = f", but not to all recipients: {message.error}" if message.error else ""
    sent = f"Sent at {format_time(message.finalized_at)} by attempt {message.attempt}"
    return f"{sent}{answered}{partly}{_outcome_after_sending(delivery_events)}."


def _outcome_after_sending(delivery_events: Sequence[DeliveryEventRow]) -> str:
    """The most important event after sending."""
    for event in ("complained", "bounced", "rejected", "unsubscribed", "delivered", "deferred"):
        for one in reversed(delivery_events):
            if one.event == event:
                return f"; {_event_text(one)} at {format_time(one.at)}{_source_and_detail(one)}"
    return ""


def _event_text(one: DeliveryEventRow) -> str:
    text = _DELIVERY_EVENT_TEXT.get(one.event, one.event)
    return f"{text} permanently" if one.hard else text


def _source_and_detail(one: DeliveryEventRow) -> str:
    source = "" if one.source == "link" else f"reported by {one.source}"
    return _in_parentheses(": ".join(part for part in (source, one.detail) if part))


def _delivery_event(one: DeliveryEventRow) -> TimelineEvent:
    if one.event == "postponed":
        return TimelineEvent(one.at, "postponed", f"postponed until {format_time(one.until)}: {one.detail}")
    recipient = f" ({one.recipient})" if one.recipient else ""
    return TimelineEvent(one.at, one.event, f"{_event_text(one)}{recipient}{_source_and_detail(one)}")


def _explain_dead(message: MessageRow, attempts: Sequence[Attempt]) -> str:
    if message.rescues and not (attempts and attempts[-1].outcome == "dead"):
        return f"Not sent, given up: {message.error}."
    because = f"because {_failure_reason(message.error_class)}{_in_parentheses(message.error)}"
    if message.error_class in PERMANENT_CLASSES:
        return f"Not sent: attempt {message.attempt} failed {because}; a retry would not help."
    return f"Not sent: given up after {_attempts_text(message.attempt)}; the last failed {because}."


def _explain_scheduled(message: MessageRow, attempts: Sequence[Attempt]) -> str:
    due = format_time(message.due_at)
    if message.error and message.error_class is None:
        return f"Not sent yet: it was postponed{_in_parentheses(message.error)}; it is due at {due}."
    if message.rate_token_reserved:
        return f"Not sent yet: its recipient's domain is at its rate limit; it is due at {due}."
    if message.attempt and (not attempts or attempts[-1].outcome == "scheduled"):
        return f"Not sent yet: {_last_failure(message)}; the next is at {due}."
    return f"Not sent yet: it is due at {due}."


def _explain_pending(message: MessageRow) -> str:
    if message.dispatchers == 0:
        served = "which has no dispatcher now; if Airflow runs, one starts within seconds"
    else:
        served = f"which has {message.dispatchers} dispatcher{'s' if message.dispatchers > 1 else ''} now"
    waits = f"it waits in lane {message.lane}, {served}."
    if message.rescues:
        return f"Not sent yet: its dispatcher died {_times_text(message.rescues)}, so it is sent alone; {waits}"
    before = f"{_last_failure(message)}, and " if message.attempt and message.error_class else ""
    return f"Not sent yet: {before}{waits}"


def _explain_leased(message: MessageRow) -> str:
    if message.cancel_requested:
        return "Being cancelled: its dispatcher was asked to drop it; if it is being sent already, it is sent."
    if message.leased_until is not None and message.leased_until < message.now:
        return (
            "Not sent yet: the process that was sending it no longer responds; it returns to its lane within seconds."
        )
    return "Being sent now."


def _last_failure(message: MessageRow) -> str:
    reason = f"{_failure_reason(message.error_class)}{_in_parentheses(message.error)}"
    return f"attempt {message.attempt} of {message.max_attempts} failed because {reason}"


def _failure_reason(error_class: str | None) -> str:
    # A newer version of Backline may have stored a class that this one does not know.
    return FAILURE_REASONS.get(error_class or "", FAILURE_REASONS[FailureClass.UNKNOWN])


def _rescue(attempt: Attempt) -> TimelineEvent:
    parts = (attempt.response, attempt.process_end)
    reason = _in_parentheses(": ".join(part for part in parts if part))
    return TimelineEvent(attempt.started_at, RESCUED, f"the process that held it died or lost it{reason}", attempt)


def _attempt_event(message: MessageRow, attempt: Attempt) -> TimelineEvent:
    outcome = "failed, to be retried" if attempt.outcome == "scheduled" else attempt.outcome
    because = f", because {_failure_reason(attempt.error_class)}" if attempt.error_class else ""
    response = _response_text(attempt)
    answer = f"; answer: {response}" if response else ""
    number = f"attempt {attempt.number} of {message.max_attempts}"
    text = f"{number}: {outcome}{because}{answer} ({attempt.duration_ms:.0f} ms)"
    return TimelineEvent(attempt.started_at, "attempt", text, attempt)


def _response_text(attempt: Attempt) -> str:
    code, response = attempt.code or "", " ".join((attempt.response or "").split())
    if response.startswith(code):
        return response
    # SMTP's enhanced code is in both: "250 2.0.0" and "2.0.0 Ok".
    return f"{code} {response.removeprefix(code.rpartition(' ')[2]).strip()}".strip()


def _in_parentheses(error: str | None) -> str:
    return f" ({error.rstrip('.')})" if error else ""


def _attempts_text(count: int) -> str:
    return f"{count} attempt{'s' if count > 1 else ''}"


def _times_text(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
