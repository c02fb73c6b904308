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
from backline.encryption import Encryptor
from backline.errors import BacklineError, InvalidInput, Misconfigured

log = logging.getLogger(__name__)

CACHE_TTL_SECONDS = 2.0
"""How long an endpoint is remembered: a new secret, or that it is disabled, is known this soon."""
MAX_CACHED_ENDPOINTS = 1000
"""Endpoints at most; beyond them all are looked up anew."""
MAX_REASON_LENGTH = 500


class DeliveryEndpoint(NamedTuple):
    """One endpoint as a delivery needs it. Its secrets are in the clear, and only here."""

    id: str
    url: str
    disabled_reason: str | None
    """None while it is active."""
    failing_seconds: float | None
    """How long it had failed when it was looked up; None if all was well."""
    secrets: tuple[str, ...]

    def __repr__(self) -> str:
        """Without the secrets, and the URL, which may hold one."""
        return f"Target({self.id})"


class EndpointStore:
    """Endpoints, over one connection that is opened at its first use."""

    def __init__(
        self, dsn: str, sealer: Callable[[], Encryptor], *, disable_after: float, recipients: Sequence[str]
    ) -> None:
        """An endpoint is disabled after so many seconds of failure; the recipients are told."""
        self._database = Database(dsn, name="webhook endpoints")
        self._encryptor = sealer
        self._disable_after = disable_after
        self._recipients = list(recipients)
        self._cache: dict[str, tuple[float, DeliveryEndpoint | None]] = {}

    async def get(self, endpoint_id: str) -> DeliveryEndpoint | None:
        """The endpoint, or None if there is none; DatabaseFailure if the database is away."""
        now = time.monotonic()
        known = self._cache.get(endpoint_id)
        if known is not None and now - known[0] < CACHE_TTL_SECONDS:
            return known[1]
        rows = await self._database.fetch(statement("webhooks", "endpoint_get_for_delivery"), {"id": endpoint_id})
        found = self._to_endpoint(rows[0]) if rows else None
        if len(self._cache) >= MAX_CACHED_ENDPOINTS:
            self._cache.clear()
        self._cache[endpoint_id] = (now, found)
        return found

    async def record_success(self, target: DeliveryEndpoint) -> None:
        """The endpoint has taken an event."""
        if target.failing_seconds is not None:
            await self._execute(target, "endpoint_clear_failure", id=target.id)

    async def record_failure(self, target: DeliveryEndpoint, error: BacklineError, *, gone: bool = False) -> None:
        """The endpoint has not taken an event: disable it if it is gone for good, or has failed for too long."""
        if gone:
            await self._disable(target, "it answered 410 Gone, which asks for no more events", None)
        elif target.failing_seconds is None:
            await self._execute(target, "endpoint_record_failure", id=target.id, error=str(error)[:MAX_REASON_LENGTH])
        elif target.failing_seconds >= self._disable_after:
            days = self._disable_after / 86_400
            why = f"it has taken nothing for {days:.3g} days; the last failure: {error}"
            await self._disable(target, why, self._disable_after)

    async def close(self) -> None:
        """Close the connection; never raises."""
        await self._database.close()

    def _to_endpoint(self, row: DictRow) -> DeliveryEndpoint:
        try:
            secrets = tuple(self._encryptor().decrypt("secret", ciphertext) for ciphertext in row["ciphertexts"])
        except InvalidInput as exc:
            # Not the message's fault: it is tried again, and goes out once somebody has mended the keys.
            raise Misconfigured(f"the secret of webhook endpoint {row['id']}: {exc.problem}") from None
        why = (row["disabled_reason"] or "") if row["state"] == "disabled" else None
        return DeliveryEndpoint(row["id"], row["url"], why, row["failing_seconds"], secrets)

    async def _disable(self, target: DeliveryEndpoint, why: str, after: float | None) -> None:
        why = why[:MAX_REASON_LENGTH]
        await self._execute(
            target, "endpoint_disable", id=target.id, why=why, after=after, recipients=self._recipients,
            notice=json.dumps(disabled_notification(target, why)),
        )  # fmt: skip

    async def _execute(self, target: DeliveryEndpoint, name: str, **params: Any) -> None:
        self._cache.pop(target.id, None)
        try:
            await self._database.fetch(statement("webhooks", name), params)
        except BacklineError as exc:
            # How the delivery went counts more; the next one notes it again.
            log.warning("webhook endpoint %s: %s failed: %s", target.id, name, exc)


def disabled_notification(target: DeliveryEndpoint, why: str) -> dict[str, Any]:
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
