"""The webhook channel: one HTTP request per message, signed anew for each attempt, only to allowed addresses."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from datetime import UTC
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import DefaultResolver
from pydantic_core import to_json

from backline.channels.base import Message, Receipt, WebhookContent, truncate
from backline.channels.http import HttpRequest, HttpResponse, HttpSession
from backline.channels.raw_json import raw_member
from backline.channels.recipients import parse_webhook_recipient
from backline.channels.webhook.endpoints import DeliveryEndpoint, EndpointStore
from backline.channels.webhook.settings import WebhookSettings
from backline.channels.webhook.signatures import signature_header
from backline.channels.webhook.ssrf_guard import AddressGuard, AddressNotAllowed
from backline.errors import BacklineError, PermanentError, Rejected, UnknownFailure

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
        body = to_json({"type": event.event_type, "timestamp": occurred_at})
        data = raw_member(message.payload_json, "data") if message.payload_json else to_json(event.data)
        body = body[:-1] + b',"data":' + data + b"}"
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
        # No proxy, which would connect to any address. A receiver recognizes a repeated event by its id.
        self._http = HttpSession(connector=lambda: guarded_connector(guard, resolver_factory), repeat_disconnected=True)

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
            response = await self._http.exchange(_signed_request(endpoint, prepared), server=endpoint.id)
            _check_status(endpoint, response)
        except BacklineError as exc:
            await self._endpoints.record_failure(endpoint, exc, gone=exc.code == str(HTTP_GONE))
            raise
        await self._endpoints.record_success(endpoint)
        return Receipt(str(response.status), truncate(response.body), prepared.event_id)

    async def close(self) -> None:
        """Close all connections; never raises."""
        await self._http.close()
        await self._endpoints.close()


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


def guarded_connector(guard: AddressGuard, resolver_factory: ResolverFactory) -> aiohttp.TCPConnector:
    """A connection pool without limits that connects only to allowed addresses, or raises AddressNotAllowed.

    The address is checked again when its socket is created, because an address in the URL is not resolved.
    """

    def open_socket(info: Any) -> socket.socket:
        family, kind, protocol, _, (address, port, *_) = info
        if not guard.allows(address, port):
            raise AddressNotAllowed(address, address)
        return socket.socket(family, kind, protocol)

    return aiohttp.TCPConnector(
        resolver=GuardedResolver(guard, resolver_factory()), socket_factory=open_socket, limit=0, limit_per_host=0
    )


def _signed_request(endpoint: DeliveryEndpoint, prepared: PreparedWebhook) -> HttpRequest:
    timestamp = int(time.time())
    headers = {
        "Content-Type": "application/json",
        "Accept-Encoding": "identity",
        "User-Agent": USER_AGENT,
        "webhook-id": prepared.event_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": signature_header(endpoint.secrets, prepared.event_id, timestamp, prepared.body),
    }
    return HttpRequest("POST", endpoint.url, headers, prepared.body, prepared.timeout)


def _check_status(endpoint: DeliveryEndpoint, response: HttpResponse) -> None:
    status = response.status
    if 300 <= status < 400:
        host = _host(response.headers.get("Location", ""))
        redirect = f"{endpoint.id} answered {status}, a redirect" + (f" to {host}" if host else "")
        raise UnknownFailure(f"{redirect}; redirects are not followed: set the endpoint's final URL", code=str(status))
    try:
        response.raise_for_status(endpoint.id)
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
