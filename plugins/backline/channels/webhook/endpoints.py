"""Loads endpoints for deliveries, and records their failures."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from backline.db.connect import Database, to_storable
from backline.db.statements import statement
from backline.encryption import Encryptor
from backline.errors import BacklineError, InvalidInput, Misconfigured
from backline.outbox.submission import NewMessage, enqueue_statement

log = logging.getLogger(__name__)

CACHE_TTL_SECONDS = 2.0
"""How long an endpoint is cached: a new secret, or its being disabled, takes effect this soon."""
MAX_CACHED_ENDPOINTS = 1000
"""When the cache has so many endpoints, it is cleared."""
MAX_REASON_LENGTH = 500


@dataclass(frozen=True, slots=True)
class EndpointRow:
    """An endpoint as it is stored."""

    id: str
    url: str
    state: str
    disabled_reason: str | None
    failing_seconds: float | None
    ciphertexts: list[str]
    """Of its secrets that sign."""


class DeliveryEndpoint(NamedTuple):
    """One endpoint for a delivery. Its secrets are decrypted here and nowhere else."""

    id: str
    url: str
    disabled_reason: str | None
    """None while it is active."""
    failing_seconds: float | None
    """How long it had been failing when it was loaded; None if it was not."""
    secrets: tuple[str, ...]

    def __repr__(self) -> str:
        """Without the secrets and the URL, which may hold one."""
        return f"DeliveryEndpoint({self.id})"


class EndpointStore:
    """Endpoints, over one connection that is opened on first use."""

    def __init__(
        self, dsn: str, encryptor: Callable[[], Encryptor], *, disable_after: float, recipients: Sequence[str]
    ) -> None:
        """An endpoint is disabled after so many seconds of failure, and the recipients are notified."""
        self._database = Database(dsn, name="webhook endpoints")
        self._encryptor = encryptor
        self._disable_after = disable_after
        self._recipients = list(recipients)
        self._cache: dict[str, tuple[float, DeliveryEndpoint | None]] = {}

    async def get(self, endpoint_id: str) -> DeliveryEndpoint | None:
        """The endpoint, or None if there is none; DatabaseFailure if the database is unavailable."""
        now = time.monotonic()
        cached = self._cache.get(endpoint_id)
        if cached is not None and now - cached[0] < CACHE_TTL_SECONDS:
            return cached[1]
        rows = await self._database.fetch(
            statement("webhooks", "endpoint_get_for_delivery"), EndpointRow, {"id": endpoint_id}
        )
        found = self._to_endpoint(rows[0]) if rows else None
        if len(self._cache) >= MAX_CACHED_ENDPOINTS:
            self._cache.clear()
        self._cache[endpoint_id] = (now, found)
        return found

    async def record_success(self, endpoint: DeliveryEndpoint) -> None:
        """Record that the endpoint has accepted an event."""
        if endpoint.failing_seconds is not None:
            await self._execute(endpoint, "endpoint_clear_failure")

    async def record_failure(self, endpoint: DeliveryEndpoint, error: BacklineError, *, gone: bool = False) -> None:
        """Record a failed delivery; disable the endpoint if it is gone, or has been failing for too long."""
        if gone:
            await self._disable(endpoint, "it answered 410 Gone, which asks for no more events", None)
        elif endpoint.failing_seconds is None:
            text = to_storable(str(error))[:MAX_REASON_LENGTH]
            await self._execute(endpoint, "endpoint_record_failure", error=text)
        elif endpoint.failing_seconds >= self._disable_after:
            days = self._disable_after / 86_400
            reason = f"it has accepted nothing for {days:.3g} days; the last failure: {error}"
            await self._disable(endpoint, reason, self._disable_after)

    async def close(self) -> None:
        """Close the connection; never raises."""
        await self._database.close()

    def _to_endpoint(self, row: EndpointRow) -> DeliveryEndpoint:
        try:
            secrets = tuple(self._encryptor().decrypt("secret", ciphertext) for ciphertext in row.ciphertexts)
        except InvalidInput as exc:
            # Not the message's fault: it is attempted again, and succeeds once the keys are fixed.
            raise Misconfigured(f"the secret of webhook endpoint {row.id}: {exc.problem}") from None
        reason = (row.disabled_reason or "") if row.state == "disabled" else None
        return DeliveryEndpoint(row.id, row.url, reason, row.failing_seconds, secrets)

    async def _disable(self, endpoint: DeliveryEndpoint, reason: str, min_failing_seconds: float | None) -> None:
        reason = to_storable(reason)[:MAX_REASON_LENGTH]
        self._cache.pop(endpoint.id, None)
        values = {"id": endpoint.id, "reason": reason, "min_failing_seconds": min_failing_seconds}
        payload = disabled_notification(endpoint, reason)
        messages = [NewMessage("urgent_email", recipient, payload) for recipient in self._recipients]
        try:
            async with self._database.transaction() as run:
                if await run(statement("webhooks", "endpoint_disable"), int, values) and messages:
                    sql, params = enqueue_statement(messages)
                    await run(sql, list[int], params)
        except BacklineError as exc:
            log.warning("webhook endpoint %s: endpoint_disable failed: %s", endpoint.id, exc)

    async def _execute(self, endpoint: DeliveryEndpoint, name: str, **params: Any) -> None:
        self._cache.pop(endpoint.id, None)
        try:
            await self._database.fetch(statement("webhooks", name), str, {"id": endpoint.id, **params})
        except BacklineError as exc:
            # The delivery's own outcome matters more; the next delivery records it again.
            log.warning("webhook endpoint %s: %s failed: %s", endpoint.id, name, exc)


def disabled_notification(endpoint: DeliveryEndpoint, reason: str) -> dict[str, Any]:
    """The payload of the email about a disabled endpoint. It has only the URL's host: the rest may be secret."""
    return {
        "context": {
            "title": f"Webhook endpoint {endpoint.id} was disabled",
            "summary": f"It gets no more events: {reason}.",
            "severity": "warning",
            "details": {"Endpoint": endpoint.id, "Host": urlsplit(endpoint.url).hostname or ""},
            "action": (
                f"When it works again: ./backline webhooks enable {endpoint.id}, then send the events it missed: "
                f"./backline webhooks replay {endpoint.id} --since TIME"
            ),
        }
    }
