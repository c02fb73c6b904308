"""Where a delivery looks endpoints up, and where it is noted how they fare."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from psycopg.rows import DictRow

from backline.db.connect import Database
from backline.db.statements import statement
from backline.errors import BacklineError, InvalidInput, Misconfigured
from backline.sealing import Sealer

log = logging.getLogger(__name__)

FRESH_SECONDS = 2.0
"""How long an endpoint is remembered: a new secret, or that it is disabled, is known this soon."""
REMEMBERED = 1000
"""Endpoints at most; beyond them all are looked up anew."""
WHY_LENGTH = 500


class Target(NamedTuple):
    """One endpoint as a delivery needs it. Its secrets are in the clear, and only here."""

    id: str
    url: str
    disabled_why: str | None
    """None while it is active."""
    failing_seconds: float | None
    """How long it had failed when it was looked up; None if all was well."""
    secrets: tuple[str, ...]

    def __repr__(self) -> str:
        """Without the secrets, and the URL, which may hold one."""
        return f"Target({self.id})"


class Directory:
    """Endpoints, over one connection that is opened at its first use."""

    def __init__(
        self, dsn: str, sealer: Callable[[], Sealer], *, disable_after: float, recipients: Sequence[str]
    ) -> None:
        """An endpoint is disabled after so many seconds of failure; the recipients are told."""
        self._database = Database(dsn, name="webhook endpoints")
        self._sealer = sealer
        self._disable_after = disable_after
        self._recipients = list(recipients)
        self._known: dict[str, tuple[float, Target | None]] = {}

    async def target(self, endpoint_id: str) -> Target | None:
        """The endpoint, or None if there is none; DatabaseFailure if the database is away."""
        now = time.monotonic()
        known = self._known.get(endpoint_id)
        if known is not None and now - known[0] < FRESH_SECONDS:
            return known[1]
        rows = await self._database.fetch(statement("webhooks", "endpoint_target"), {"id": endpoint_id})
        found = self._opened(rows[0]) if rows else None
        if len(self._known) >= REMEMBERED:
            self._known.clear()
        self._known[endpoint_id] = (now, found)
        return found

    async def took(self, target: Target) -> None:
        """The endpoint has taken an event."""
        if target.failing_seconds is not None:
            await self._note(target, "endpoint_recovered", id=target.id)

    async def failed(self, target: Target, error: BacklineError, *, gone: bool = False) -> None:
        """The endpoint has not taken an event: disable it if it is gone for good, or has failed for too long."""
        if gone:
            await self._disable(target, "it answered 410 Gone, which asks for no more events", None)
        elif target.failing_seconds is None:
            await self._note(target, "endpoint_failed", id=target.id, error=str(error)[:WHY_LENGTH])
        elif target.failing_seconds >= self._disable_after:
            days = self._disable_after / 86_400
            why = f"it has taken nothing for {days:.3g} days; the last failure: {error}"
            await self._disable(target, why, self._disable_after)

    async def close(self) -> None:
        """Close the connection; never raises."""
        await self._database.close()

    def _opened(self, row: DictRow) -> Target:
        try:
            secrets = tuple(self._sealer().open("secret", sealed) for sealed in row["sealed"])
        except InvalidInput as exc:
            # Not the message's fault: it is tried again, and goes out once somebody has mended the keys.
            raise Misconfigured(f"the secret of webhook endpoint {row['id']}: {exc.problem}") from None
        why = (row["disabled_why"] or "") if row["state"] == "disabled" else None
        return Target(row["id"], row["url"], why, row["failing_seconds"], secrets)

    async def _disable(self, target: Target, why: str, after: float | None) -> None:
        why = why[:WHY_LENGTH]
        await self._note(
            target, "endpoint_disable", id=target.id, why=why, after=after, recipients=self._recipients,
            notice=json.dumps(notice(target, why)),
        )  # fmt: skip

    async def _note(self, target: Target, name: str, **params: Any) -> None:
        self._known.pop(target.id, None)
        try:
            await self._database.fetch(statement("webhooks", name), params)
        except BacklineError as exc:
            # How the delivery went counts more; the next one notes it again.
            log.warning("webhook endpoint %s: %s failed: %s", target.id, name, exc)


def notice(target: Target, why: str) -> dict[str, Any]:
    """The payload of the email that tells of a disabled endpoint. Of its URL only the host: the rest may be secret."""
    return {
        "context": {
            "title": f"Webhook endpoint {target.id} was disabled",
            "summary": f"It gets no more events: {why}.",
            "severity": "warning",
            "details": {"Endpoint": target.id, "Host": urlsplit(target.url).hostname or ""},
            "action": (
                f"When it is well again: ./backline webhooks enable {target.id}, and send it what it has missed: "
                f"./backline webhooks replay {target.id} --since TIME"
            ),
        }
    }
