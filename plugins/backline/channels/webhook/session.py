"""Hands events to endpoints over HTTP: each connection judged by its address, each try signed anew."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

import aiohttp
from aiohttp.resolver import DefaultResolver

from backline.channels.base import RESPONSE_LIMIT, Receipt, truncate
from backline.channels.http.responses import raise_for_status
from backline.channels.http.session import CONNECT_TIMEOUT_SECONDS, UNKNOWN_OUTCOME
from backline.channels.webhook.connector import ResolverFactory, guarded_connector
from backline.channels.webhook.endpoints import DeliveryEndpoint, EndpointStore
from backline.channels.webhook.signatures import signature_header
from backline.channels.webhook.ssrf_guard import AddressGuard
from backline.errors import (
    BacklineError,
    InvalidInput,
    NetworkFailure,
    PermanentError,
    Rejected,
    TimeoutFailure,
    UnknownFailure,
)

USER_AGENT = "Backline-Webhooks/1"
HTTP_GONE = 410


class PreparedWebhook(NamedTuple):
    """An event as it goes out: the body's bytes are the same at every try."""

    endpoint: str
    event_id: str
    body: bytes
    timeout: float
    """Seconds for all of one try, connecting included."""

    def __repr__(self) -> str:
        """Without the body."""
        return f"PreparedWebhook({self.event_id} to {self.endpoint}, {len(self.body)} bytes)"


class WebhookSession:
    """A pool of kept connections, to whichever endpoints there are."""

    def __init__(
        self, endpoints: EndpointStore, guard: AddressGuard, resolver_factory: ResolverFactory = DefaultResolver
    ) -> None:
        """`make_resolver` makes what looks host names up; the default asks as this host does."""
        self._endpoints = endpoints
        self._guard = guard
        self._resolver_factory = resolver_factory
        self._client: aiohttp.ClientSession | None = None

    async def send(self, prepared: PreparedWebhook) -> Receipt:
        """Hand one event over.

        Any answer but 2xx is a failure that is tried again, as Standard Webhooks asks; 410 alone is for good, and
        disables the endpoint. InvalidInput for an address that is not allowed; Rejected if the endpoint was deleted or
        is disabled.
        """
        target = await self._endpoints.get(prepared.endpoint)
        if target is None:
            raise Rejected(f"there is no webhook endpoint {prepared.endpoint} any more: it was deleted")
        if target.disabled_reason is not None:
            raise Rejected(f"endpoint {target.id} is disabled: {target.disabled_reason}")
        try:
            receipt = await self._post(target, prepared)
        except BacklineError as exc:
            await self._endpoints.record_failure(target, exc, gone=exc.code == str(HTTP_GONE))
            raise
        await self._endpoints.record_success(target)
        return receipt

    async def close(self) -> None:
        """Close all connections; never raises."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()
        await self._endpoints.close()

    async def _post(self, target: DeliveryEndpoint, prepared: PreparedWebhook) -> Receipt:
        try:
            status, headers, text = await self._exchange(target, prepared)
        except aiohttp.ConnectionTimeoutError:
            raise TimeoutFailure(f"{target.id}: no connection within {_connect_timeout(prepared):g} s") from None
        except TimeoutError as exc:
            raise TimeoutFailure(f"{target.id} did not answer within {prepared.timeout:g} s{UNKNOWN_OUTCOME}") from exc
        except aiohttp.InvalidURL:
            raise InvalidInput("url", f"of endpoint {target.id} cannot be used; give it another one") from None
        except aiohttp.ClientConnectorError as exc:
            raise NetworkFailure(f"{target.id}: {_error_without_url(exc, target)}") from None
        except (aiohttp.ClientError, OSError) as exc:
            raise NetworkFailure(f"{target.id}: {_error_without_url(exc, target)}{UNKNOWN_OUTCOME}") from None
        _check_status(target, status, headers, text)
        return Receipt(str(status), truncate(text), prepared.event_id)

    async def _exchange(
        self, target: DeliveryEndpoint, prepared: PreparedWebhook
    ) -> tuple[int, Mapping[str, str], str]:
        try:
            return await self._request(target, prepared)
        except aiohttp.ServerDisconnectedError:
            # Mostly a kept connection that the far side had closed meanwhile. Once more over a new one: if it has taken
            # the event after all, it knows it by its id.
            return await self._request(target, prepared)

    async def _request(self, target: DeliveryEndpoint, prepared: PreparedWebhook) -> tuple[int, Mapping[str, str], str]:
        timestamp = int(time.time())
        headers = {
            "Content-Type": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": USER_AGENT,
            "webhook-id": prepared.event_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature_header(target.secrets, prepared.event_id, timestamp, prepared.body),
        }
        async with self._get_client().post(
            target.url, data=prepared.body, headers=headers, allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=prepared.timeout, connect=_connect_timeout(prepared)),
        ) as answer:  # fmt: skip
            # Of a long answer only the beginning is read; its connection is then not used again.
            text = (await answer.content.read(RESPONSE_LIMIT)).decode("utf-8", "replace").replace("\0", "\ufffd")
            return answer.status, answer.headers, text

    def _get_client(self) -> aiohttp.ClientSession:
        if self._client is None:
            self._client = aiohttp.ClientSession(
                connector=guarded_connector(self._guard, self._resolver_factory),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,  # a proxy would connect in our place, to any address
            )
        return self._client


def _connect_timeout(prepared: PreparedWebhook) -> float:
    return min(prepared.timeout, CONNECT_TIMEOUT_SECONDS)


def _check_status(target: DeliveryEndpoint, status: int, headers: Mapping[str, str], text: str) -> None:
    if 300 <= status < 400:
        host = _host(headers.get("Location", ""))
        said = f"{target.id} answered {status}, a redirect" + (f" to {host}" if host else "")
        raise UnknownFailure(f"{said}: none is followed; give the endpoint its final URL", code=str(status))
    try:
        raise_for_status(status, headers, text, server=target.id)
    except PermanentError as exc:
        if status == HTTP_GONE:
            raise
        raise UnknownFailure(str(exc), code=exc.code, response=exc.response) from None


def _host(url: str) -> str | None:
    """Of a URL that others gave, its host alone: the rest may be secret."""
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _error_without_url(exc: Exception, target: DeliveryEndpoint) -> str:
    """What an error says, but for the URL's path and query, which may hold a token."""
    parts = urlsplit(target.url)
    said = str(exc) or type(exc).__name__
    for piece in (target.url, f"{parts.path}?{parts.query}", parts.query, parts.path):
        if len(piece) > 1:
            said = said.replace(piece, "…")
    return said
