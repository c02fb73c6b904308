"""One message's story: its timeline, and one plain sentence why it was or was not sent. Pure functions over rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import quote

from backline.channels.webhook.content import EVERY
from backline.errors import FailureClass
from backline.settings import PERMANENT_CLASSES

BECAUSE = {
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
class Facts:
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
    rate_paid: bool
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
class Try:
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
class Act:
    """What a person did to it: a row of the audit trail."""

    at: datetime
    actor: str
    act: str


@dataclass(frozen=True, slots=True)
class Later:
    """What befell it beside its tries: put off by preferences, or told of afterwards. A row of backline.delivery_event."""

    at: datetime
    event: str
    hard: bool
    source: str
    recipient: str | None
    detail: str | None
    until: datetime | None


@dataclass(frozen=True, slots=True)
class Event:
    """One line of the timeline. `at` is None where the time was not written down."""

    at: datetime | None
    event: str
    text: str
    tried: Try | None = None


def why(facts: Facts, tries: Sequence[Try], acts: Sequence[Act], later: Sequence[Later] = ()) -> str:
    """Why the message was or was not sent, in one sentence."""
    if facts.channel == "webhook" and facts.recipient == EVERY:
        return _event(facts)
    match facts.state:
        case "sent":
            return _sent(facts, tries, later)
        case "suppressed":
            return f"Not sent: the recipient is not to be written to{_said(facts.error)}."
        case "cancelled":
            by = next((act.actor for act in reversed(acts) if act.act == "message.cancel"), None)
            return f"Not sent: {by + ' cancelled it' if by else 'it was cancelled'} at {moment(facts.finalized_at)}."
        case "expired":
            before = f" after {_tries(facts.attempt)} failed" if facts.attempt else ""
            return f"Not sent: its time was over at {moment(facts.expires_at or facts.finalized_at)}{before}."
        case "dead":
            return _dead(facts, tries)
        case "scheduled":
            return _scheduled(facts, tries)
        case "pending":
            return _pending(facts)
        case _:
            return _leased(facts)


def timeline(facts: Facts, tries: Sequence[Try], acts: Sequence[Act], later: Sequence[Later] = ()) -> list[Event]:
    """What happened to the message, first to last; what is still to come stands at the end."""
    sender = next((f" from {act.actor}" for act in acts if act.act == "message.send"), "")
    request = f" by request {facts.request_id}" if facts.request_id else ""
    again = f", as message {facts.replay_of} sent again" if facts.replay_of else ""
    first = Event(facts.created_at, "accepted", f"taken in{sender}{request} for lane {facts.lane}{again}")
    dated = [*(_tried(facts, found) for found in tries), *(_acted(act) for act in acts if act.act in _ACTS)]
    if facts.finalized_at is not None:
        dated.append(Event(facts.finalized_at, facts.state, _ENDINGS[facts.state] + _said(facts.error)))
    dated += [_befell(one) for one in later]
    # Stable: a try and the end that it brought keep their order.
    dated.sort(key=lambda event: event.at or facts.now)
    undated = []
    if facts.attempt > len(tries):
        undated.append(Event(None, "forgotten", f"{_tries(facts.attempt - len(tries))} no longer kept in the history"))
    if facts.rescues:
        undated.append(Event(None, "rescued", f"its dispatcher died {_times(facts.rescues)} while it held the message"))
    ahead = []
    if facts.state == "scheduled":
        ahead.append(Event(facts.due_at, "due", "due to be sent"))
    return [first, *undated, *dated, *ahead]


def moment(at: datetime | None) -> str:
    """A time as a sentence has it, in its own zone: 2026-11-22 18:20:03 UTC."""
    return at.strftime("%Y-%m-%d %H:%M:%S %Z") if at else "an unknown time"


_ENDINGS = {
    "sent": "sent",
    "suppressed": "not sent: the recipient is not to be written to",
    "cancelled": "taken back before it was sent",
    "expired": "its time was over before it could be sent",
    "dead": "given up",
}
_AFTERWARDS = {
    "delivered": "it was delivered",
    "deferred": "its delivery was delayed",
    "rejected": "the provider did not send it on",
    "bounced": "it bounced",
    "complained": "the recipient called it spam",
    "unsubscribed": "the recipient unsubscribed",
    "resubscribed": "the recipient came back",
}
_ACTS = {"message.cancel": "taken back", "message.retry": "revived", "message.replay": "sent again as a new message"}


def _event(facts: Facts) -> str:
    """Of an event for every endpoint: its row is final at once, those of its group are sent."""
    if facts.state == "sent":
        return f"Handed on at {moment(facts.finalized_at)} to {facts.provider_id}: group {facts.id} has a message for each."
    return f"Not sent: {facts.error}."


def _sent(facts: Facts, tries: Sequence[Try], later: Sequence[Later]) -> str:
    answer = _answer(tries[-1]) if tries else ""
    said = f"; the far side answered {answer!r}" if answer else ""
    partly = f", but not to everybody: {facts.error}" if facts.error else ""
    return f"Sent at {moment(facts.finalized_at)} by try {facts.attempt}{said}{partly}{_afterwards(later)}."


def _afterwards(later: Sequence[Later]) -> str:
    """What counts most of what was told after it was sent."""
    for event in ("complained", "bounced", "rejected", "unsubscribed", "delivered", "deferred"):
        for one in reversed(later):
            if one.event == event:
                return f"; {_words(one)} at {moment(one.at)}{_told(one)}"
    return ""


def _words(one: Later) -> str:
    return f"{_AFTERWARDS[one.event]} for good" if one.hard else _AFTERWARDS[one.event]


def _told(one: Later) -> str:
    by = "" if one.source == "link" else f"{one.source} told"
    return _said(": ".join(part for part in (by, one.detail) if part))


def _befell(one: Later) -> Event:
    if one.event == "put_off":
        return Event(one.at, "put off", f"put off until {moment(one.until)}: {one.detail}")
    whom = f" ({one.recipient})" if one.recipient else ""
    return Event(one.at, one.event, f"{_words(one)}{whom}{_told(one)}")


def _dead(facts: Facts, tries: Sequence[Try]) -> str:
    if facts.rescues and not (tries and tries[-1].outcome == "dead"):
        return f"Not sent, given up: {facts.error}."
    because = f"because {_because(facts.error_class)}{_said(facts.error)}"
    if facts.error_class in PERMANENT_CLASSES:
        return f"Not sent: try {facts.attempt} failed {because}; trying again would not help."
    return f"Not sent: given up after {_tries(facts.attempt)}; the last failed {because}."


def _scheduled(facts: Facts, tries: Sequence[Try]) -> str:
    if facts.error and facts.error_class is None:
        return f"Not sent yet: it was put off{_said(facts.error)}; it is due at {moment(facts.due_at)}."
    if facts.rate_paid:
        return f"Not sent yet: its recipient's domain is at its rate limit; its turn is at {moment(facts.due_at)}."
    if facts.attempt and (not tries or tries[-1].outcome == "scheduled"):
        return f"Not sent yet: {_failure(facts)}; the next is at {moment(facts.due_at)}."
    return f"Not sent yet: it is due at {moment(facts.due_at)}."


def _pending(facts: Facts) -> str:
    if facts.dispatchers == 0:
        served = "which no dispatcher serves now; if Airflow runs, one starts within seconds"
    else:
        served = f"which {facts.dispatchers} dispatcher{'s serve' if facts.dispatchers > 1 else ' serves'} now"
    if facts.rescues:
        return (
            f"Not sent yet: its dispatcher died {_times(facts.rescues)}, so it is sent by itself; "
            f"it waits in lane {facts.lane}, {served}."
        )
    before = f"{_failure(facts)}, and " if facts.attempt and facts.error_class else ""
    return f"Not sent yet: {before}it waits in lane {facts.lane}, {served}."


def _leased(facts: Facts) -> str:
    if facts.cancel_requested:
        return "Being taken back: whoever holds it has been asked to; if it is on the wire already, it is sent."
    if facts.leased_until is not None and facts.leased_until < facts.now:
        return "Not sent yet: whoever was sending it has stopped answering; it returns to its lane within seconds."
    return "Being sent now."


def _failure(facts: Facts) -> str:
    return (
        f"try {facts.attempt} of {facts.max_attempts} failed because {_because(facts.error_class)}{_said(facts.error)}"
    )


def _because(error_class: str | None) -> str:
    return BECAUSE[FailureClass(error_class or FailureClass.UNKNOWN)]


def _tried(facts: Facts, found: Try) -> Event:
    what = f"try {found.number} of {facts.max_attempts}: {found.outcome}" if found.outcome != "scheduled" else (
        f"try {found.number} of {facts.max_attempts}: failed, to be tried again"
    )  # fmt: skip
    because = f", because {_because(found.error_class)}" if found.error_class else ""
    answer = _answer(found)
    said = f"; answer: {answer}" if answer else ""
    return Event(found.started_at, "try", f"{what}{because}{said} ({found.duration_ms:.0f} ms)", found)


def _acted(act: Act) -> Event:
    return Event(act.at, act.act.removeprefix("message."), f"{_ACTS[act.act]} by {act.actor}")


def _answer(found: Try) -> str:
    code, response = found.code or "", " ".join((found.response or "").split())
    if response.startswith(code):
        return response
    # SMTP's enhanced code stands in both: "250 2.0.0" and "2.0.0 Ok".
    return f"{code} {response.removeprefix(code.rpartition(' ')[2]).strip()}".strip()


def _said(error: str | None) -> str:
    return f" ({error.rstrip('.')})" if error else ""


def _tries(count: int) -> str:
    return f"{count} {'try' if count == 1 else 'tries'}"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
