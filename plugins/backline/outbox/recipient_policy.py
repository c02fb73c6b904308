"""Decides which claimed messages may be sent now: payload versions, preferences, rates by domain, failing endpoints.

Each check takes a claimed batch and returns the messages that may go on; the others it suppresses or defers in the outbox.
"""

from __future__ import annotations

import logging
import random
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time
from typing import Any
from zoneinfo import ZoneInfo

from pydantic_core import to_json

from backline.channels.registry import definition
from backline.db.connect import Database
from backline.db.statements import statement
from backline.errors import BacklineError, DatabaseFailure, InvalidInput
from backline.messages import registry
from backline.outbox.delivery import describe_exception, upgraded
from backline.outbox.store import LeasedMessage, Store, lease_parameters
from backline.preferences.quiet_hours import (
    QuietHours,
    find_time_zone,
    next_day_start,
    parse_quiet_hours,
    quiet_period_end,
)
from backline.preferences.repository import SUPPRESSION_REASONS
from backline.preferences.settings import PreferenceSettings
from backline.preferences.unsubscribe import ALL_TOPICS
from backline.rendering.settings import TemplateSettings
from backline.settings import LaneSettings, settings

log = logging.getLogger(__name__)
Step = Callable[[list[LeasedMessage]], Awaitable[list[LeasedMessage]]]

URGENT_PRIORITY = 8
"""Lanes of this priority and above are urgent."""
WEBHOOK_CHANNEL = "webhook"
HOLD_BACK_SECONDS = (15.0, 45.0)
"""Delay of messages for a failing endpoint, at random between these, so that a few at a time come due."""
NEWER_VERSION_DELAY_SECONDS = 30.0
"""Delay of a message whose payload is of a newer version than this process knows."""

# --- isolation -------------------------------------------------------------------------------------------


async def each_alone(check: Step, messages: list[LeasedMessage]) -> list[LeasedMessage]:
    """Apply a check to a batch. If it fails, apply it to each message, so that one which it cannot handle affects only itself.

    That message is admitted with a `problem`: its attempt fails with it and sends nothing. DatabaseFailure if the database is
    not available.
    """
    try:
        return await check(messages)
    except DatabaseFailure:
        raise
    except Exception as exc:  # any value that Python or SQL cannot handle
        if not messages:
            raise
        if len(messages) == 1:
            reason = str(exc) if isinstance(exc, BacklineError) else f"unexpected {describe_exception(exc)}"
            log.warning("message %d cannot be checked: %s", messages[0].id, reason)
            messages[0].problem = InvalidInput("message", f"cannot be checked before it is sent: {reason}")
            return messages
    return [admitted for message in messages for admitted in await each_alone(check, [message])]


# --- payload versions ------------------------------------------------------------------------------------


async def upgrade_payloads(store: Store, messages: list[LeasedMessage]) -> list[LeasedMessage]:
    """The messages with older payloads upgraded; those of a newer version than this process knows are deferred.

    An upgrade that fails leaves the message as it is: the attempt repeats it, and the failure is the attempt's.
    """
    known, newer = [], []
    for message in messages:
        kind = registry.find(message.type)
        if kind is None or message.type_version == kind.version:
            known.append(message)
        elif message.type_version > kind.version:
            newer.append((message, NEWER_VERSION_DELAY_SECONDS))
        else:
            try:
                known.append(upgraded(message))
            except Exception:  # noqa: BLE001 - a fault in one message must not stop the lane
                known.append(message)
    if newer:
        types = ", ".join(sorted({f"{message.type} {message.type_version}" for message, _ in newer}))
        log.warning("%d messages deferred: payload versions are newer than this process knows: %s", len(newer), types)
        await store.defer(
            newer, "its payload is of a newer version than the dispatcher knows; it waits for a newer one"
        )
    return known


# --- preferences -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FilterResult:
    """The messages of a batch that may be sent, and how many were suppressed or deferred."""

    admitted: list[LeasedMessage]
    suppressed: int = 0
    deferred: int = 0


@dataclass(frozen=True, slots=True)
class SendWindow:
    """When one recipient accepts messages: their own preference, or else the settings'."""

    zone: ZoneInfo
    quiet_hours: QuietHours | None
    per_day: int

    def next_allowed(self, now: datetime) -> tuple[datetime, str] | None:
        """The end of the current quiet hours, and the reason for waiting; None if there is no need to wait."""
        if self.quiet_hours is None or (end := quiet_period_end(now, self.quiet_hours, self.zone)) is None:
            return None
        return end, f"quiet hours of the recipient, {self.quiet_hours} in {self.zone.key}"

    def next_day_start(self, now: datetime) -> tuple[datetime, str]:
        """When a message over the daily limit may be sent, and the reason for waiting."""
        begins = next_day_start(now, self.zone)
        quiet = self.next_allowed(begins)
        return quiet[0] if quiet else begins, f"the recipient gets at most {self.per_day} messages a day"


@dataclass(frozen=True, slots=True)
class RecipientPreferences:
    """What is known of one message's recipient."""

    position: int
    """The message's, from 1."""
    now: datetime
    suppressed: str | None
    """The reason."""
    suppressed_by: str | None
    suppressed_since: datetime | None
    opted_out_topic: str | None
    opted_out_since: datetime | None
    zone: str | None
    quiet_from: time | None
    quiet_until: time | None
    per_day: int | None


class PreferenceFilter:
    """Applies suppressions, opt-outs, quiet hours and daily limits to the batches of one lane, by one query per batch.

    Suppressions and opt-outs apply to every message, quiet hours and limits not to urgent lanes and types with secrets.
    """

    def __init__(self, database: Database, lane: LaneSettings) -> None:
        config = settings()
        self._database = database
        self._channel = lane.channel
        self._can_defer = lane.priority < URGENT_PRIORITY
        hours = config.section(PreferenceSettings).quiet_hours.get(lane.channel)
        self._quiet_hours = parse_quiet_hours(hours) if hours else None
        self._per_day = config.section(PreferenceSettings).daily_limit.get(lane.channel, 0)
        self._zone = config.section(TemplateSettings).time_zone

    async def apply(self, messages: list[LeasedMessage]) -> FilterResult:
        """The messages that may be sent now; the others are stored as suppressed or deferred and no longer leased."""
        has_defaults = self._can_defer and (self._quiet_hours is not None or self._per_day > 0)
        if not messages or not (has_defaults or messages[0].has_preferences):
            return FilterResult(messages)
        keys = [definition(self._channel).address_key(message.recipient) for message in messages]
        topics, deferrable = self._topics_and_deferrable(messages)
        recipients = [{"address": key, "topic": topic} for key, topic in zip(keys, topics, strict=True)]
        query = {
            "channel": self._channel, "include_unknown": has_defaults,
            "recipients": to_json(recipients).decode(),  # psycopg quotes an array of text in Python, element by element
        }  # fmt: skip
        known = await self._database.fetch(
            statement("preferences", "recipient_preferences"), RecipientPreferences, query
        )
        if not known:
            return FilterResult(messages)
        suppressed: dict[int, str] = {}
        deferred: dict[int, tuple[datetime, str]] = {}
        limited: dict[int, SendWindow] = {}
        now = known[0].now
        for row in known:
            index = row.position - 1
            if reason := _suppression_reason(row):
                suppressed[index] = reason
            elif deferrable[index]:
                window = self._send_window(row, messages[index].payload)
                if wait := window.next_allowed(now):
                    deferred[index] = wait
                elif window.per_day:
                    limited[index] = window
        if limited:
            deferred |= await self._over_daily_limit(messages, keys, limited, now)
        await self._save_decisions(messages, suppressed, deferred)
        admitted = [one for index, one in enumerate(messages) if index not in suppressed and index not in deferred]
        return FilterResult(admitted, len(suppressed), len(deferred))

    def _topics_and_deferrable(self, messages: Sequence[LeasedMessage]) -> tuple[list[str | None], list[bool]]:
        """The topic of each message, and whether it can wait."""
        topics: list[str | None] = []
        deferrable = []
        for message in messages:
            kind = registry.find(message.type)  # the channel refuses an unknown type
            topics.append(kind.topic_of(message.payload) if kind else None)
            deferrable.append(self._can_defer and kind is not None and not kind.secret_fields)
        return topics, deferrable

    def _send_window(self, row: RecipientPreferences, payload: Mapping[str, object]) -> SendWindow:
        own = payload.get("zone")
        names = (row.zone, own if isinstance(own, str) else None, self._zone)
        zone = next((found for name in names if name and (found := find_time_zone(name))), ZoneInfo("UTC"))
        hours = self._quiet_hours
        if row.quiet_from is not None and row.quiet_until is not None:
            hours = QuietHours(row.quiet_from, row.quiet_until)
        return SendWindow(zone, hours, self._per_day if row.per_day is None else row.per_day)

    async def _over_daily_limit(
        self, messages: Sequence[LeasedMessage], keys: Sequence[str], limited: Mapping[int, SendWindow], now: datetime
    ) -> dict[int, tuple[datetime, str]]:
        days: dict[tuple[str, str], dict[str, Any]] = {}
        for index, window in limited.items():
            day = now.astimezone(window.zone).date().isoformat()
            request = {"address": keys[index], "day": day, "per_day": window.per_day, "message_ids": []}
            days.setdefault((keys[index], day), request)["message_ids"].append(messages[index].id)
        params = {"channel": self._channel, "requests": to_json(list(days.values())).decode()}
        rows = await self._database.fetch(statement("preferences", "daily_send_count_claim_many"), list[int], params)
        within = {message_id for message_ids in rows for message_id in message_ids}
        return {
            index: window.next_day_start(now) for index, window in limited.items() if messages[index].id not in within
        }

    async def _save_decisions(
        self,
        messages: Sequence[LeasedMessage],
        suppressed: Mapping[int, str],
        deferred: Mapping[int, tuple[datetime, str]],
    ) -> None:
        if suppressed:
            leases = lease_parameters(messages[index] for index in suppressed)
            params = {**leases, "reasons": list(suppressed.values())}
            await self._database.fetch(statement("preferences", "message_suppress_many"), int, params)
        if deferred:
            leases = lease_parameters(messages[index] for index in deferred)
            untils, reasons = zip(*deferred.values(), strict=True)
            params = {**leases, "untils": list(untils), "reasons": list(reasons)}
            await self._database.fetch(statement("preferences", "message_defer_many"), int, params)
        for reason, count in Counter([*suppressed.values(), *(reason for _, reason in deferred.values())]).items():
            log.info("%d messages not sent now: %s", count, reason)


def _suppression_reason(row: RecipientPreferences) -> str | None:
    """Why the recipient must not get the message, or None."""
    if row.suppressed and row.suppressed_since:
        since = row.suppressed_since.astimezone(UTC)
        return (
            f"the address is suppressed since {since:%Y-%m-%d}: {SUPPRESSION_REASONS.get(row.suppressed, row.suppressed)} "
            f"(source: {row.suppressed_by})"
        )
    if row.opted_out_topic and row.opted_out_since:
        what = "all topics" if row.opted_out_topic == ALL_TOPICS else f"the topic {row.opted_out_topic}"
        return f"the recipient opted out of {what} on {row.opted_out_since.astimezone(UTC):%Y-%m-%d}"
    return None


# --- rates by the recipient's domain --------------------------------------------------------------------


def domain_of(recipient: str) -> str:
    """The domain of an address, in lower case; empty when it has none."""
    _, at, domain = recipient.rpartition("@")
    return domain.rstrip("> ").lower() if at else ""


async def defer_over_domain_rate(
    store: Store, lane_name: str, lane: LaneSettings, messages: list[LeasedMessage]
) -> list[LeasedMessage]:
    """The messages within their domain's rate; the others are deferred until their domain's token comes.

    A message is deferred once: its token is reserved, so it is sent when it comes due again.
    """
    limited: dict[str, list[LeasedMessage]] = defaultdict(list)
    for message in messages:
        domain = domain_of(message.recipient)
        if not message.rate_token_reserved and domain in lane.domain_rates_per_minute:
            limited[domain].append(message)
    if not limited:
        return messages
    keys = {domain: f"domain:{lane_name}:{domain}" for domain in limited}
    intervals = {domain: 60.0 / lane.domain_rates_per_minute[domain] for domain in limited}
    counts = [len(batch) for batch in limited.values()]
    first = await store.reserve_rate_tokens(list(keys.values()), counts, list(intervals.values()), lane.rate_burst)
    deferred = []
    for domain, batch in limited.items():
        for index, message in enumerate(batch):
            delay = first[keys[domain]] + index * intervals[domain]
            if delay > 0:
                deferred.append((message, delay))
    if deferred:
        await store.defer(deferred)
    ids = {message.id for message, _ in deferred}
    return [message for message in messages if message.id not in ids]


# --- failing webhook endpoints ---------------------------------------------------------------------------


async def hold_back_failing_endpoints(
    store: Store, messages: list[LeasedMessage], in_hand: Iterable[LeasedMessage]
) -> list[LeasedMessage]:
    """Admit one message at a time for an endpoint that has failed for a while: more would delay the other endpoints.

    The others are deferred. `in_hand` are the messages that the dispatcher already has.
    """
    if not messages:
        return messages
    failing = await store.failing_endpoints({message.recipient for message in messages})
    if not failing:
        return messages
    taken = {message.recipient for message in in_hand}
    admitted, waiting = [], []
    for message in messages:
        if message.recipient in failing and message.recipient in taken:
            waiting.append((message, random.uniform(*HOLD_BACK_SECONDS)))  # noqa: S311 - no secret
        else:
            taken.add(message.recipient)
            admitted.append(message)
    if waiting:
        await store.defer(waiting)
    return admitted
