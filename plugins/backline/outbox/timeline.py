"""One message's story: its timeline, and one plain sentence why it was or was not sent. Pure functions over rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import quote

from backline.channels.content import ALL_ENDPOINTS
from backline.errors import PERMANENT_CLASSES, FailureClass

FAILURE_REASONS = {
    FailureClass.TIMEOUT: "the far side did not answer in time",
    FailureClass.NETWORK: "the far side could not be reached, or the connection broke",
    FailureClass.DATABASE: "the database was not available",
    FailureClass.RATE_LIMITED: "the far side asked to slow down",
    FailureClass.VALIDATION: "its content is wrong",
    FailureClass.AUTHENTICATION: "our credentials were refused",
    FailureClass.RESOURCE: "the far side, or this host, is out of something",
    FailureClass.REJECTED: "the far side refused it for good",
    FailureClass.UNKNOWN: "of something unexpected",
}
"""Each failure class, in words that follow "because"."""


@dataclass(frozen=True, slots=True)
class MessageRow:
    """A message's row, but for its payload. All times are the database's."""

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
    """One try: a row of backline.attempt."""

    number: int
    started_at: datetime
    duration_ms: float
    outcome: str
    error_class: str | None
    code: str | None
    response: str | None
    dispatcher: int | None
    dag_run: str | None

    def log_path(self) -> str | None:
        """Where Airflow's UI shows the log of the task that made this try, from Airflow's root; None if no run did."""
        dag_id, _, run_id = (self.dag_run or "").partition("/")
        if not run_id:
            return None
        task = "dispatch" if dag_id.startswith("dispatch_") else "send"
        return f"/dags/{quote(dag_id)}/runs/{quote(run_id, safe='')}/tasks/{task}"


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """What a person did to it: a row of the audit trail."""

    at: datetime
    actor: str
    action: str


@dataclass(frozen=True, slots=True)
class DeliveryEventRow:
    """What befell it beside its tries: put off by preferences, or told of afterwards. A row of backline.delivery_event."""

    at: datetime
    event: str
    hard: bool
    source: str
    recipient: str | None
    detail: str | None
    until: datetime | None


@dataclass(frozen=True, slots=True)
class TimelineEvent:
    """One line of the timeline. `at` is None where the time was not written down."""

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
    if message.channel == "webhook" and message.recipient == ALL_ENDPOINTS:
        return _explain_fan_out(message)
    match message.state:
        case "sent":
            return _explain_sent(message, attempts, delivery_events)
        case "suppressed":
            return f"Not sent: the recipient is not to be written to{_in_parentheses(message.error)}."
        case "cancelled":
            by = next((act.actor for act in reversed(audit_entries) if act.action == "message.cancel"), None)
            return f"Not sent: {by + ' cancelled it' if by else 'it was cancelled'} at {format_time(message.finalized_at)}."
        case "expired":
            before = f" after {_attempts_text(message.attempt)} failed" if message.attempt else ""
            return f"Not sent: its time was over at {format_time(message.expires_at or message.finalized_at)}{before}."
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
    """What happened to the message, first to last; what is still to come stands at the end."""
    sender = next((f" from {act.actor}" for act in audit_entries if act.action == "message.send"), "")
    request = f" by request {message.request_id}" if message.request_id else ""
    again = f", as message {message.replay_of} sent again" if message.replay_of else ""
    first = TimelineEvent(message.created_at, "accepted", f"taken in{sender}{request} for lane {message.lane}{again}")
    dated = [
        *(_attempt_event(message, found) for found in attempts),
        *(_action_event(act) for act in audit_entries if act.action in _ACTION_TEXT),
    ]
    if message.finalized_at is not None:
        dated.append(
            TimelineEvent(
                message.finalized_at, message.state, _FINAL_STATE_TEXT[message.state] + _in_parentheses(message.error)
            )
        )
    dated += [_delivery_event(one) for one in delivery_events]
    # Stable: a try and the end that it brought keep their order.
    dated.sort(key=lambda event: event.at or message.now)
    undated = []
    if message.attempt > len(attempts):
        undated.append(
            TimelineEvent(
                None, "forgotten", f"{_attempts_text(message.attempt - len(attempts))} no longer kept in the history"
            )
        )
    if message.rescues:
        undated.append(
            TimelineEvent(
                None, "rescued", f"its dispatcher died {_times_text(message.rescues)} while it held the message"
            )
        )
    ahead = []
    if message.state == "scheduled":
        ahead.append(TimelineEvent(message.due_at, "due", "due to be sent"))
    return [first, *undated, *dated, *ahead]


def format_time(at: datetime | None) -> str:
    """A time as a sentence has it, in its own zone: 2026-11-22 18:20:03 UTC."""
    return at.strftime("%Y-%m-%d %H:%M:%S %Z") if at else "an unknown time"


_FINAL_STATE_TEXT = {
    "sent": "sent",
    "suppressed": "not sent: the recipient is not to be written to",
    "cancelled": "taken back before it was sent",
    "expired": "its time was over before it could be sent",
    "dead": "given up",
}
_DELIVERY_EVENT_TEXT = {
    "delivered": "it was delivered",
    "deferred": "its delivery was delayed",
    "rejected": "the provider did not send it on",
    "bounced": "it bounced",
    "complained": "the recipient called it spam",
    "unsubscribed": "the recipient unsubscribed",
    "resubscribed": "the recipient came back",
}
_ACTION_TEXT = {
    "message.cancel": "taken back",
    "message.retry": "revived",
    "message.replay": "sent again as a new message",
}


def _explain_fan_out(facts: MessageRow) -> str:
    """Of an event for every endpoint: its row is final at once, those of its group are sent."""
    if facts.state == "sent":
        return f"Handed on at {format_time(facts.finalized_at)} to {facts.provider_id}: group {facts.id} has a message for each."
    return f"Not sent: {facts.error}."


def _explain_sent(facts: MessageRow, tries: Sequence[Attempt], later: Sequence[DeliveryEventRow]) -> str:
    answer = _response_text(tries[-1]) if tries else ""
    said = f"; the far side answered {answer!r}" if answer else ""
    partly = f", but not to everybody: {facts.error}" if facts.error else ""
    return f"Sent at {format_time(facts.finalized_at)} by try {facts.attempt}{said}{partly}{_outcome_after_sending(later)}."


def _outcome_after_sending(later: Sequence[DeliveryEventRow]) -> str:
    """What counts most of what was told after it was sent."""
    for event in ("complained", "bounced", "rejected", "unsubscribed", "delivered", "deferred"):
        for one in reversed(later):
            if one.event == event:
                return f"; {_event_text(one)} at {format_time(one.at)}{_source_and_detail(one)}"
    return ""


def _event_text(one: DeliveryEventRow) -> str:
    return f"{_DELIVERY_EVENT_TEXT[one.event]} for good" if one.hard else _DELIVERY_EVENT_TEXT[one.event]


def _source_and_detail(one: DeliveryEventRow) -> str:
    by = "" if one.source == "link" else f"{one.source} told"
    return _in_parentheses(": ".join(part for part in (by, one.detail) if part))


def _delivery_event(one: DeliveryEventRow) -> TimelineEvent:
    if one.event == "postponed":
        return TimelineEvent(one.at, "postponed", f"postponed until {format_time(one.until)}: {one.detail}")
    whom = f" ({one.recipient})" if one.recipient else ""
    return TimelineEvent(one.at, one.event, f"{_event_text(one)}{whom}{_source_and_detail(one)}")


def _explain_dead(facts: MessageRow, tries: Sequence[Attempt]) -> str:
    if facts.rescues and not (tries and tries[-1].outcome == "dead"):
        return f"Not sent, given up: {facts.error}."
    because = f"because {_failure_reason(facts.error_class)}{_in_parentheses(facts.error)}"
    if facts.error_class in PERMANENT_CLASSES:
        return f"Not sent: try {facts.attempt} failed {because}; trying again would not help."
    return f"Not sent: given up after {_attempts_text(facts.attempt)}; the last failed {because}."


def _explain_scheduled(facts: MessageRow, tries: Sequence[Attempt]) -> str:
    if facts.error and facts.error_class is None:
        return f"Not sent yet: it was put off{_in_parentheses(facts.error)}; it is due at {format_time(facts.due_at)}."
    if facts.rate_token_reserved:
        return f"Not sent yet: its recipient's domain is at its rate limit; its turn is at {format_time(facts.due_at)}."
    if facts.attempt and (not tries or tries[-1].outcome == "scheduled"):
        return f"Not sent yet: {_last_failure(facts)}; the next is at {format_time(facts.due_at)}."
    return f"Not sent yet: it is due at {format_time(facts.due_at)}."


def _explain_pending(facts: MessageRow) -> str:
    if facts.dispatchers == 0:
        served = "which no dispatcher serves now; if Airflow runs, one starts within seconds"
    else:
        served = f"which {facts.dispatchers} dispatcher{'s serve' if facts.dispatchers > 1 else ' serves'} now"
    if facts.rescues:
        return (
            f"Not sent yet: its dispatcher died {_times_text(facts.rescues)}, so it is sent by itself; "
            f"it waits in lane {facts.lane}, {served}."
        )
    before = f"{_last_failure(facts)}, and " if facts.attempt and facts.error_class else ""
    return f"Not sent yet: {before}it waits in lane {facts.lane}, {served}."


def _explain_leased(facts: MessageRow) -> str:
    if facts.cancel_requested:
        return "Being taken back: whoever holds it has been asked to; if it is on the wire already, it is sent."
    if facts.leased_until is not None and facts.leased_until < facts.now:
        return "Not sent yet: whoever was sending it has stopped answering; it returns to its lane within seconds."
    return "Being sent now."


def _last_failure(facts: MessageRow) -> str:
    return f"try {facts.attempt} of {facts.max_attempts} failed because {_failure_reason(facts.error_class)}{_in_parentheses(facts.error)}"


def _failure_reason(error_class: str | None) -> str:
    return FAILURE_REASONS[FailureClass(error_class or FailureClass.UNKNOWN)]


def _attempt_event(facts: MessageRow, found: Attempt) -> TimelineEvent:
    what = f"try {found.number} of {facts.max_attempts}: {found.outcome}" if found.outcome != "scheduled" else (
        f"try {found.number} of {facts.max_attempts}: failed, to be tried again"
    )  # fmt: skip
    because = f", because {_failure_reason(found.error_class)}" if found.error_class else ""
    answer = _response_text(found)
    said = f"; answer: {answer}" if answer else ""
    return TimelineEvent(found.started_at, "try", f"{what}{because}{said} ({found.duration_ms:.0f} ms)", found)


def _action_event(act: AuditEntry) -> TimelineEvent:
    return TimelineEvent(act.at, act.action.removeprefix("message."), f"{_ACTION_TEXT[act.action]} by {act.actor}")


def _response_text(found: Attempt) -> str:
    code, response = found.code or "", " ".join((found.response or "").split())
    if response.startswith(code):
        return response
    # SMTP's enhanced code stands in both: "250 2.0.0" and "2.0.0 Ok".
    return f"{code} {response.removeprefix(code.rpartition(' ')[2]).strip()}".strip()


def _in_parentheses(error: str | None) -> str:
    return f" ({error.rstrip('.')})" if error else ""


def _attempts_text(count: int) -> str:
    return f"{count} {'try' if count == 1 else 'tries'}"


def _times_text(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
