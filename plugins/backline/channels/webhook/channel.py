"""The webhook channel: a message becomes one signed HTTP request to its endpoint.

Each connection is checked by the address it connects to, and each attempt is signed anew.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping
from datetime import UTC
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import DefaultResolver
from pydantic_core import to_json

from backline.channels.base import RESPONSE_LIMIT, Message, Receipt, truncate
from backline.channels.content import WebhookContent
from backline.channels.http.responses import raise_for_status
from backline.channels.http.session import CONNECT_TIMEOUT_SECONDS, UNKNOWN_OUTCOME
from backline.channels.recipients import parse_webhook_recipient
from backline.channels.webhook.endpoints import DeliveryEndpoint, EndpointStore
from backline.channels.webhook.signatures import signature_header
from backline.channels.webhook.ssrf_guard import AddressGuard, AddressNotAllowed
from backline.errors import (
    BacklineError,
    InvalidInput,
    NetworkFailure,
    PermanentError,
    Rejected,
    TimeoutFailure,
    UnknownFailure,
)
from backline.webhooks.settings import WebhookSettings

USER_AGENT = "Backline-Webhooks/1"
HTTP_GONE = 410
ResolverFactory = Callable[[], AbstractResolver]


class PreparedWebhook(NamedTuple):
    """An event's request; the body's bytes are the same in every attempt."""

    endpoint: str
    event_id: str
    body: bytes
    timeout: float
    """Seconds for one attempt, including the time to connect."""

    def __repr__(self) -> str:
        """Without the body."""
        return f"PreparedWebhook({self.event_id} to {self.endpoint}, {len(self.body)} bytes)"


class WebhookChannel:
    """Channel of `PreparedWebhook`s; `render` turns a message into its event, `open_endpoints` opens the endpoint store."""

    name = "webhook"
    connections = 1
    """One session holds the connections to all endpoints."""

    def __init__(
        self,
        settings: WebhookSettings,
        open_endpoints: Callable[[], EndpointStore],
        render: Callable[[Message], WebhookContent],
    ) -> None:
        self.messages_per_session = settings.concurrency
        self._timeout = settings.timeout_seconds
        self._guard = AddressGuard(settings.allowed_addresses)
        self._open_endpoints = open_endpoints
        self._render = render

    def prepare(self, message: Message) -> PreparedWebhook:
        """The request's body; raises InvalidInput, naming the field, if the recipient or the payload is wrong."""
        endpoint = parse_webhook_recipient(message.recipient, "to")
        event = self._render(message)
        occurred_at = event.occurred_at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        body = to_json({"type": event.event_type, "timestamp": occurred_at, "data": event.data})
        timeout = self._timeout if message.attempt == 1 else self._timeout * 2
        return PreparedWebhook(endpoint, event.event_id, body, timeout)

    def session(self) -> WebhookSession:
        """A new session, not yet connected."""
        return WebhookSession(self._open_endpoints(), self._guard)


class WebhookSession:
    """A pool of persistent connections to all endpoints."""

    def __init__(
        self, endpoints: EndpointStore, guard: AddressGuard, resolver_factory: ResolverFactory = DefaultResolver
    ) -> None:
        """`resolver_factory` creates the resolver of host names; the default uses the system's."""
        self._endpoints = endpoints
        self._guard = guard
        self._resolver_factory = resolver_factory
        self._client: aiohttp.ClientSession | None = None

    async def send(self, prepared: PreparedWebhook) -> Receipt:
        """Deliver one event.

        Any response but 2xx is a retryable failure, as Standard Webhooks requires; only 410 is permanent and disables the
        endpoint. InvalidInput for an address that is not allowed; Rejected if the endpoint was deleted or disabled.
        """
        endpoint = await self._endpoints.get(prepared.endpoint)
        if endpoint is None:
            raise Rejected(f"webhook endpoint {prepared.endpoint} was deleted")
        if endpoint.disabled_reason is not None:
            raise Rejected(f"endpoint {endpoint.id} is disabled: {endpoint.disabled_reason}")
        try:
            receipt = await self._post(endpoint, prepared)
        except BacklineError as exc:
            await self._endpoints.record_failure(endpoint, exc, gone=exc.code == str(HTTP_GONE))
            raise
        await self._endpoints.record_success(endpoint)
        return receipt

    async def close(self) -> None:
        """Close all connections; never raises."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()
        await self._endpoints.close()

    async def _post(self, endpoint: DeliveryEndpoint, prepared: PreparedWebhook) -> Receipt:
        try:
            status, headers, text = await self._exchange(endpoint, prepared)
        except aiohttp.ConnectionTimeoutError:
            raise TimeoutFailure(f"{endpoint.id}: no connection within {_connect_timeout(prepared):g} s") from None
        except TimeoutError as exc:
            text = f"{endpoint.id} did not answer within {prepared.timeout:g} s{UNKNOWN_OUTCOME}"
            raise TimeoutFailure(text) from exc
        except aiohttp.InvalidURL:
            raise InvalidInput("url", f"of endpoint {endpoint.id} is not usable; change it") from None
        except aiohttp.ClientConnectorError as exc:
            raise NetworkFailure(f"{endpoint.id}: {_error_without_url(exc, endpoint)}") from None
        except (aiohttp.ClientError, OSError) as exc:
            raise NetworkFailure(f"{endpoint.id}: {_error_without_url(exc, endpoint)}{UNKNOWN_OUTCOME}") from None
        _check_status(endpoint, status, headers, text)
        return Receipt(str(status), truncate(text), prepared.event_id)

    async def _exchange(
        self, endpoint: DeliveryEndpoint, prepared: PreparedWebhook
    ) -> tuple[int, Mapping[str, str], str]:
        try:
            return await self._request(endpoint, prepared)
        except aiohttp.ServerDisconnectedError:
            # Usually a persistent connection that the receiver has closed. Send once more over a new one: a receiver
            # that did accept the event recognizes it by its id.
            return await self._request(endpoint, prepared)

    async def _request(
        self, endpoint: DeliveryEndpoint, prepared: PreparedWebhook
    ) -> tuple[int, Mapping[str, str], str]:
        timestamp = int(time.time())
        headers = {
            "Content-Type": "application/json",
            "Accept-Encoding": "identity",
            "User-Agent": USER_AGENT,
            "webhook-id": prepared.event_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature_header(endpoint.secrets, prepared.event_id, timestamp, prepared.body),
        }
        async with self._get_client().post(
            endpoint.url, data=prepared.body, headers=headers, allow_redirects=False,
            timeout=aiohttp.ClientTimeout(total=prepared.timeout, connect=_connect_timeout(prepared)),
        ) as response:  # fmt: skip
            # Only the beginning of a long response is read; its connection is then not reused.
            text = (await response.content.read(RESPONSE_LIMIT)).decode("utf-8", "replace").replace("\0", "\ufffd")
            return response.status, response.headers, text

    def _get_client(self) -> aiohttp.ClientSession:
        if self._client is None:
            self._client = aiohttp.ClientSession(
                connector=guarded_connector(self._guard, self._resolver_factory),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                trust_env=False,  # a proxy would connect for us, to any address
            )
        return self._client


class GuardedResolver(AbstractResolver):
    """Returns only allowed addresses; AddressNotAllowed if a name has no such address."""

    def __init__(self, guard: AddressGuard, inner: AbstractResolver) -> None:
        self._guard = guard
        self._inner = inner

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The allowed addresses among those of the inner resolver."""
        found = await self._inner.resolve(host, port, family)
        allowed = [address for address in found if self._guard.allows(address["host"], port)]
        if found and not allowed:
            raise AddressNotAllowed(host, found[0]["host"])
        return allowed

    async def close(self) -> None:
        """Close the inner resolver."""
        await self._inner.close()


def guarded_connector(guard: AddressGuard, resolver_factory: ResolverFactory = DefaultResolver) -> aiohttp.TCPConnector:
    """A connection pool without limits that connects only to allowed addresses.

    The address is checked again when its socket is created, because an address in the URL is not resolved.
    AddressNotAllowed is raised to the caller that requested the connection.
    """

    def open_socket(info: Any) -> socket.socket:
        family, kind, protocol, _, (address, port, *_) = info
        if not guard.allows(address, port):
            raise AddressNotAllowed(address, address)
        return socket.socket(family, kind, protocol)

    return aiohttp.TCPConnector(
        resolver=GuardedResolver(guard, resolver_factory()), socket_factory=open_socket, limit=0, limit_per_host=0
    )


def _connect_timeout(prepared: PreparedWebhook) -> float:
    return min(prepared.timeout, CONNECT_TIMEOUT_SECONDS)


def _check_status(endpoint: DeliveryEndpoint, status: int, headers: Mapping[str, str], text: str) -> None:
    if 300 <= status < 400:
        host = _host(headers.get("Location", ""))
        redirect = f"{endpoint.id} answered {status}, a redirect" + (f" to {host}" if host else "")
        raise UnknownFailure(f"{redirect}; redirects are not followed: set the endpoint's final URL", code=str(status))
    try:
        raise_for_status(status, headers, text, server=endpoint.id)
    except PermanentError as exc:
        if status == HTTP_GONE:
            raise
        raise UnknownFailure(str(exc), code=exc.code, response=exc.response) from None


def _host(url: str) -> str | None:
    """The host of a received URL; the rest may be secret."""
    try:
        return urlsplit(url).hostname
    except ValueError:
        return None


def _error_without_url(exc: Exception, endpoint: DeliveryEndpoint) -> str:
    """An error's text without the URL's path and query, which may hold a token."""
    parts = urlsplit(endpoint.url)
    text = str(exc) or type(exc).__name__
    for part in (endpoint.url, f"{parts.path}?{parts.query}", parts.query, parts.path):
        if len(part) > 1:
            text = text.replace(part, "…")
    return text
