"""Reads and changes preferences: suppressions, opt-outs, quiet hours and daily limits. Each runs in the caller's transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, time
from typing import Any, Literal

import psycopg

from backline.audit_trail import Actor, record
from backline.channels.registry import definition
from backline.db.connect import fetch, fetch_one
from backline.db.statements import statement
from backline.errors import InvalidInput, PermanentError
from backline.preferences.quiet_hours import find_time_zone
from backline.preferences.settings import PreferenceSettings
from backline.preferences.unsubscribe import ALL_TOPICS, Subscription
from backline.settings import settings

Connection = psycopg.Connection[Any]
OptOutAction = Literal["opted_out", "opted_out_all", "opted_in"]
SUPPRESSION_REASONS = {
    "hard_bounce": "mail to it bounced permanently",
    "complaint": "its owner reported a message as spam",
    "unsubscribed": "its owner told the provider to stop",
    "manual": "an operator or the app suppressed it",
}
"""Each reason of a suppression, with its text."""


class SuppressionNotFound(PermanentError):
    """There is no suppression of that id: it never existed, or it was removed."""


@dataclass(frozen=True, slots=True)
class SuppressionFilters:
    """Which suppressions to list; None matches all."""

    channel: str | None = None
    address: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class RecipientPreference:
    """One recipient's preference; None means the setting's value."""

    zone: str | None = None
    quiet_from: time | None = None
    quiet_until: time | None = None
    per_day: int | None = None


@dataclass(frozen=True, slots=True)
class Suppression:
    """A suppressed address."""

    id: int
    channel: str
    address: str
    reason: str
    source: str
    detail: str | None
    message_id: int | None
    """The message that caused it."""
    since: datetime
    until: datetime | None


@dataclass(frozen=True, slots=True)
class OptOut:
    """A topic that a recipient opted out of."""

    topic: str
    source: str
    since: datetime


def suppress(
    connection: Connection,
    channel: str,
    address: str,
    who: Actor,
    *,
    until: datetime | None = None,
    detail: str | None = None,
) -> Suppression:
    """Suppress an address; an existing suppression that lasts longer is kept. InvalidInput names the field."""
    key = definition(channel).parse_address_key(address, "address")
    values = {
        "channel": channel, "address": key, "reason": "manual", "detail": detail, "until": until, "source": who.name
    }  # fmt: skip
    [suppression_id] = fetch(connection, statement("preferences", "suppress"), int, values)
    [added] = fetch(connection, statement("preferences", "suppression_get"), Suppression, {"id": suppression_id})
    record(connection, who, "suppression.add", f"suppression/{added.id}", after=_audit_values(asdict(added)))
    return added


def remove_suppression(connection: Connection, suppression_id: int, who: Actor) -> Suppression:
    """Remove a suppression; returns it. SuppressionNotFound."""
    key = {"id": suppression_id}
    removed = fetch_one(connection, statement("preferences", "suppression_remove"), Suppression, key)
    if removed is None:
        raise SuppressionNotFound(f"there is no suppression {suppression_id}: it never existed, or it was removed")
    before = _audit_values(asdict(removed))
    record(connection, who, "suppression.remove", f"suppression/{suppression_id}", before=before)
    return removed


def list_suppressions(
    connection: Connection, filters: SuppressionFilters, cursor: int | None, limit: int
) -> list[Suppression]:
    """At most `limit` current suppressions below the id `cursor`, newest first. InvalidInput for an unknown reason."""
    if filters.reason is not None and filters.reason not in SUPPRESSION_REASONS:
        raise InvalidInput(
            "reason", f"{filters.reason[:40]!r} is not a reason; use one of: {', '.join(SUPPRESSION_REASONS)}"
        )
    values = {**asdict(filters), "cursor": cursor, "batch_limit": limit}
    return fetch(connection, statement("preferences", "suppression_list"), Suppression, values)


def get_preferences(connection: Connection, channel: str, address: str) -> dict[str, Any]:
    """All preferences of one recipient. InvalidInput names an invalid channel or address."""
    key = definition(channel).parse_address_key(address, "address")
    one = {"channel": channel, "address": key}
    preference = fetch_one(connection, statement("preferences", "preference_get"), RecipientPreference, one)
    suppressions = list_suppressions(connection, SuppressionFilters(channel, key), None, 1)
    return {
        **one,
        **asdict(preference or RecipientPreference()),
        "opted_out": fetch(connection, statement("preferences", "opt_out_list"), OptOut, one),
        "suppression": suppressions[0] if suppressions else None,
    }


def update_preference(
    connection: Connection,
    channel: str,
    address: str,
    preference: RecipientPreference,
    opted_out: Sequence[str] | None,
    who: Actor,
) -> None:
    """Set a preference; `opted_out` are all topics opted out of, None keeps those. InvalidInput names the field."""
    one = {"channel": channel, "address": definition(channel).parse_address_key(address, "address")}
    if (preference.quiet_from is None) != (preference.quiet_until is None):
        raise InvalidInput("quiet_until", "must be given with quiet_from, or neither")
    if preference.zone is not None:
        zone = find_time_zone(preference.zone)
        if zone is None:
            raise InvalidInput("zone", 'must be a time zone like "Europe/Berlin" (IANA)')
        preference = replace(preference, zone=zone.key)
    connection.execute(statement("preferences", "preference_set"), {**one, **asdict(preference)})
    if opted_out is not None:
        topics = [check_topic(topic) for topic in opted_out]
        connection.execute(statement("preferences", "opt_out_replace"), {**one, "topics": topics, "source": who.name})
    after = _audit_values({**asdict(preference), "opted_out": opted_out})
    record(connection, who, "preference.set", f"recipient/{channel}/{one['address']}", after=after)


def check_topic(topic: str) -> str:
    """A topic of the settings, or "*"; InvalidInput lists the known ones."""
    topics = settings().section(PreferenceSettings).topics
    if topic != ALL_TOPICS and topic not in topics:
        known = ", ".join(sorted(topics))
        raise InvalidInput("topic", f"{topic[:80]!r} is not a topic; use one of: {known} (preferences.topics)")
    return topic


def apply_link_action(connection: Connection, subscription: Subscription, action: OptOutAction) -> None:
    """Apply a choice from an unsubscribe page, add it to the timeline; repeatable. Opting in ends both kinds of opt-out."""
    one = {"channel": subscription.channel, "address": subscription.address}
    topic = ALL_TOPICS if action == "opted_out_all" else subscription.topic
    if opt_out_status(connection, subscription).get(action):
        return
    if action == "opted_in":
        connection.execute(statement("preferences", "opt_in"), {**one, "topic": topic})
    else:
        values = {**one, "topic": topic, "source": "link", "message_id": subscription.message_id}
        connection.execute(statement("preferences", "opt_out"), values)
    connection.execute(
        statement("delivery_events", "delivery_event_insert"),
        {
            "message_id": subscription.message_id, "channel": subscription.channel, "source": "link",
            "event": "resubscribed" if action == "opted_in" else "unsubscribed", "recipient": subscription.address,
            "detail": "all topics" if topic == ALL_TOPICS else f"topic {topic}",
        },
    )  # fmt: skip


def opt_out_status(connection: Connection, subscription: Subscription) -> Mapping[OptOutAction, bool]:
    """Whether the recipient opted out of the topic, of all topics, or of neither."""
    one = {"channel": subscription.channel, "address": subscription.address}
    topics = {each.topic for each in fetch(connection, statement("preferences", "opt_out_list"), OptOut, one)}
    opted_out = subscription.topic in topics or ALL_TOPICS in topics
    return {"opted_out": opted_out, "opted_out_all": ALL_TOPICS in topics, "opted_in": not opted_out}


def _audit_values(values: Mapping[str, object]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
