"""What recipients want, heeded before their messages go out: some are not sent at all, some later.

One statement a claimed batch, and none while no recipient has any wish and the settings have no quiet hours and no limit for
the channel. Urgent lanes and types with secrets do not wait: quiet hours and limits are not theirs. Suppression is everyone's,
and a topic that was left is left whatever the lane.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from psycopg.rows import DictRow
from pydantic_core import to_json

from backline.db.connect import Database
from backline.db.statements import statement
from backline.errors import InvalidInput
from backline.messages import registry
from backline.outbox.store import LeasedMessage
from backline.preferences.addresses import address_key
from backline.preferences.quiet_hours import (
    QuietHours,
    find_time_zone,
    next_day_start,
    parse_quiet_hours,
    quiet_period_end,
)
from backline.preferences.settings import PreferenceSettings
from backline.preferences.unsubscribe import ALL_TOPICS
from backline.rendering.settings import TemplateSettings
from backline.settings import LaneSettings, settings

log = logging.getLogger(__name__)

URGENT_PRIORITY = 8
"""Lanes of this priority and above are urgent."""
SUPPRESSION_REASONS = {
    "hard_bounce": "mail to it bounced for good",
    "complaint": "its owner called a message spam",
    "unsubscribed": "its owner told the provider to stop",
    "manual": "somebody put it there",
}
"""Each reason of a suppression, in words."""


@dataclass(frozen=True, slots=True)
class FilterResult:
    """A batch by what may become of it now."""

    admitted: list[LeasedMessage]
    suppressed: int = 0
    deferred: int = 0


@dataclass(frozen=True, slots=True)
class SendWindow:
    """When one recipient may be written to: their own wishes, else the settings'."""

    zone: ZoneInfo
    quiet_hours: QuietHours | None
    per_day: int

    def next_allowed(self, now: datetime) -> tuple[datetime, str] | None:
        """Until when to wait and why, or None."""
        if self.quiet_hours is None or (end := quiet_period_end(now, self.quiet_hours, self.zone)) is None:
            return None
        return end, f"quiet hours of the recipient, {self.quiet_hours} in {self.zone.key}"

    def next_day_start(self, now: datetime) -> tuple[datetime, str]:
        """When the next day's messages may come, for one that is over this day's limit."""
        begins = next_day_start(now, self.zone)
        waits = self.next_allowed(begins)
        return waits[0] if waits else begins, f"the recipient gets at most {self.per_day} messages a day"


class PreferenceFilter:
    """Screens one lane's batches, over a connection that it shares."""

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
        """Those that may go now; the others are written down as suppressed or put off, and are no longer ours."""
        paced = self._can_defer and (self._quiet_hours is not None or self._per_day > 0)
        if not messages or not (paced or messages[0].has_preferences):
            return FilterResult(messages)
        keys = [address_key(self._channel, message.recipient) for message in messages]
        topics, patient = self._topics_and_deferrable(messages)
        recipients = [{"address": key, "topic": topic} for key, topic in zip(keys, topics, strict=True)]
        # As one JSON text: psycopg's arrays of text are quoted element by element in Python.
        asked = to_json(recipients).decode()
        known = await self._query(
            "recipient_preferences", channel=self._channel, recipients=asked, include_unknown=paced
        )
        if not known:
            return FilterResult(messages)
        suppressed: dict[int, str] = {}
        put_off: dict[int, tuple[datetime, str]] = {}
        counted: dict[int, SendWindow] = {}
        now = known[0]["now"]
        for row in known:
            place = row["position"] - 1
            if reason := _suppression_reason(row):
                suppressed[place] = reason
            elif patient[place]:
                pace = self._send_window(row, messages[place].payload)
                if wait := pace.next_allowed(now):
                    put_off[place] = wait
                elif pace.per_day:
                    counted[place] = pace
        if counted:
            put_off |= await self._over_daily_limit(messages, keys, counted, now)
        await self._save_decisions(messages, suppressed, put_off)
        admitted = [one for place, one in enumerate(messages) if place not in suppressed and place not in put_off]
        return FilterResult(admitted, len(suppressed), len(put_off))

    def _topics_and_deferrable(self, messages: Sequence[LeasedMessage]) -> tuple[list[str | None], list[bool]]:
        """The topic of each message, and whether it can wait."""
        topics: list[str | None] = []
        patient = []
        for message in messages:
            try:
                kind = registry.get(message.type)
            except InvalidInput:  # the channel's to refuse
                topics.append(None)
                patient.append(False)
                continue
            topics.append(kind.topic_of(message.payload))
            patient.append(self._can_defer and not kind.secret_fields)
        return topics, patient

    def _send_window(self, row: DictRow, payload: Mapping[str, Any]) -> SendWindow:
        own = payload.get("zone")
        names = (row["zone"], own if isinstance(own, str) else None, self._zone)
        zone = next((found for name in names if name and (found := find_time_zone(name))), ZoneInfo("UTC"))
        hours = self._quiet_hours if row["quiet_from"] is None else QuietHours(row["quiet_from"], row["quiet_until"])
        return SendWindow(zone, hours, self._per_day if row["per_day"] is None else row["per_day"])

    async def _over_daily_limit(
        self, messages: Sequence[LeasedMessage], keys: Sequence[str], counted: Mapping[int, SendWindow], now: datetime
    ) -> dict[int, tuple[datetime, str]]:
        days: dict[tuple[str, str], dict[str, Any]] = {}
        for place, pace in counted.items():
            day = now.astimezone(pace.zone).date().isoformat()
            wanted = days.setdefault(
                (keys[place], day), {"address": keys[place], "day": day, "per_day": pace.per_day, "message_ids": []}
            )
            wanted["message_ids"].append(messages[place].id)
        rows = await self._query(
            "daily_send_count_claim_many", channel=self._channel, requests=to_json(list(days.values())).decode()
        )
        within = {message_id for row in rows for message_id in row["message_ids"]}
        return {place: pace.next_day_start(now) for place, pace in counted.items() if messages[place].id not in within}

    async def _save_decisions(
        self,
        messages: Sequence[LeasedMessage],
        suppressed: Mapping[int, str],
        put_off: Mapping[int, tuple[datetime, str]],
    ) -> None:
        if suppressed:
            held = [messages[place] for place in suppressed]
            await self._query(
                "message_suppress_many", ids=[one.id for one in held], tokens=[one.token for one in held],
                reasons=list(suppressed.values()),
            )  # fmt: skip
        if put_off:
            held = [messages[place] for place in put_off]
            await self._query(
                "message_defer_many", ids=[one.id for one in held], tokens=[one.token for one in held],
                untils=[until for until, _ in put_off.values()], reasons=[reason for _, reason in put_off.values()],
            )  # fmt: skip
        told = Counter([*suppressed.values(), *(reason for _, reason in put_off.values())])
        for reason, count in told.items():
            log.info("%d messages not sent now: %s", count, reason)

    async def _query(self, name: str, **params: Any) -> list[DictRow]:
        return await self._database.fetch(statement("preferences", name), params)


def _suppression_reason(row: DictRow) -> str | None:
    """Why the recipient is not to be written to, or None."""
    if row["suppressed"]:
        since = row["suppressed_since"].astimezone(UTC)
        return (
            f"the address is suppressed since {since:%Y-%m-%d}: {SUPPRESSION_REASONS[row['suppressed']]}, "
            f"says {row['suppressed_by']}"
        )
    if row["opted_out_topic"]:
        what = (
            "everything that can be left"
            if row["opted_out_topic"] == ALL_TOPICS
            else f"the topic {row['opted_out_topic']}"
        )
        return f"the recipient left {what} on {row['opted_out_since'].astimezone(UTC):%Y-%m-%d}"
    return None
