"""Manages endpoints in the caller's transaction, with an audit entry; a secret is returned only when it is created."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from ipaddress import ip_address
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import ConfigDict

from backline.audit_trail import Actor, record
from backline.channels.webhook.settings import WebhookSettings
from backline.channels.webhook.signatures import SCHEMES, Scheme, new_secret, public_key
from backline.channels.webhook.ssrf_guard import AddressGuard, AddressNotAllowed
from backline.db.connect import Session, fetch, fetch_one
from backline.db.statements import statement
from backline.encryption import Encryptor
from backline.errors import InvalidInput, PermanentError
from backline.messages.fields import check_line
from backline.messages.types.webhooks import check_event_type
from backline.outbox.submission import NewMessage, enqueue, enqueue_many

Connection = Session
API_CONFIG = ConfigDict(use_attribute_docstrings=True)
"""For the HTTP API, which returns endpoints: the fields' docstrings are their descriptions."""
ALL_EVENT_TYPES = ("*",)
MAX_OVERLAP_SECONDS = 30 * 86_400
MAX_URL_LENGTH = 2000
MAX_EVENT_TYPES = 100
MAX_EVENT_TYPE_LENGTH = 128
MAX_DESCRIPTION_LENGTH = 200
DEFAULT_PORTS = {"http": 80, "https": 443}
_SHORT_ADDRESS = re.compile(r"(0x[0-9a-f]*|[0-9]+)(\.(0x[0-9a-f]*|[0-9]+))*\.?")
"""An IPv4 address as only some programs read it."""
TEST_EVENT = "backline.test"
BATCH_LIMIT = 10_000
"""Maximum number of events in one replay; repeating it continues with those still missing."""


class EndpointNotFound(PermanentError):
    """There is no endpoint of that id: it never existed, or it was deleted."""


class InvalidEndpointState(PermanentError):
    """The endpoint's state does not allow the action."""


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret in use, without its secret part."""

    __pydantic_config__ = API_CONFIG
    scheme: Scheme
    public_key: str | None
    """Of v1a: the receiver verifies signatures with it."""
    created_at: datetime
    expires_at: datetime | None
    """When it stops signing; None: it is the current one."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One endpoint."""

    __pydantic_config__ = API_CONFIG
    id: str
    url: str
    description: str
    event_types: tuple[str, ...]
    """Event types that it subscribes to: "order.paid", "order.*" for a group of types, or "*" for all."""
    state: Literal["active", "disabled"]
    disabled_reason: str | None
    disabled_at: datetime | None
    failing_since: datetime | None
    """Its first failure since the last delivered event; None: it is not failing."""
    last_error: str | None
    created_at: datetime
    secrets: tuple[Secret, ...]


@dataclass(frozen=True, slots=True)
class _StoredEndpoint:
    id: str
    url: str
    description: str
    event_types: list[str]
    state: Literal["active", "disabled"]
    disabled_reason: str | None
    disabled_at: datetime | None
    failing_since: datetime | None
    last_error: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class _StoredSecret(Secret):
    endpoint_id: str


@dataclass(frozen=True, slots=True, repr=False)
class EndpointWithSecret:
    """An endpoint with its new secret."""

    endpoint: Endpoint
    secret: str | None
    """It is not shown again. None for v1a: the receiver needs only the public key."""


def list_endpoints(connection: Connection) -> list[Endpoint]:
    """All endpoints, oldest first."""
    return _load_secrets(connection, fetch(connection, statement("webhooks", "endpoint_list"), _StoredEndpoint))


def get_endpoint(connection: Connection, endpoint_id: str) -> Endpoint:
    """One endpoint; EndpointNotFound."""
    found = fetch(connection, statement("webhooks", "endpoint_get"), _StoredEndpoint, {"id": endpoint_id})
    if not found:
        raise EndpointNotFound(
            f"there is no webhook endpoint {endpoint_id[:40]!r}: it never existed, or it was deleted"
        )
    return _load_secrets(connection, found)[0]


def create(
    connection: Connection,
    settings: WebhookSettings,
    encryptor: Encryptor,
    actor: Actor,
    *,
    url: str,
    event_types: Sequence[str] = ALL_EVENT_TYPES,
    description: str = "",
    scheme: str = "v1",
) -> EndpointWithSecret:
    """Add an endpoint; InvalidInput names the field that is wrong."""
    values = {
        "url": _check_url(url, settings), "event_types": list(_check_event_types(event_types)),
        "description": _check_description(description),
    }  # fmt: skip
    kind = _parse_scheme(scheme)
    [endpoint_id] = fetch(connection, statement("webhooks", "endpoint_create"), str, values)
    secret = _add_secret(connection, endpoint_id, kind, encryptor)
    after = {"event_types": values["event_types"], "scheme": kind}
    record(connection, actor, "webhook.create", _target(endpoint_id), after=after)
    return EndpointWithSecret(get_endpoint(connection, endpoint_id), secret)


def update(
    connection: Connection,
    settings: WebhookSettings,
    actor: Actor,
    endpoint_id: str,
    *,
    url: str | None = None,
    event_types: Sequence[str] | None = None,
    description: str | None = None,
) -> Endpoint:
    """Change the given fields; None leaves a field unchanged. Waiting messages go to the new URL."""
    before = get_endpoint(connection, endpoint_id)
    values = {
        "id": endpoint_id, "url": None if url is None else _check_url(url, settings),
        "event_types": None if event_types is None else list(_check_event_types(event_types)),
        "description": None if description is None else _check_description(description),
    }  # fmt: skip
    connection.execute(statement("webhooks", "endpoint_update"), values)
    after = get_endpoint(connection, endpoint_id)
    record(
        connection, actor, "webhook.update", _target(endpoint_id), before={"event_types": before.event_types},
        # Not the URL, which may hold a token.
        after={"event_types": after.event_types, "new_url": after.url != before.url},
    )  # fmt: skip
    return after


def rotate_secret(
    connection: Connection,
    settings: WebhookSettings,
    encryptor: Encryptor,
    actor: Actor,
    endpoint_id: str,
    *,
    scheme: str | None = None,
    overlap_seconds: float | None = None,
) -> EndpointWithSecret:
    """Create a new secret; the old ones also sign for `overlap_seconds` (None: the settings'), 0 after a leak."""
    endpoint = get_endpoint(connection, endpoint_id)
    seconds = settings.rotation_overlap_seconds if overlap_seconds is None else overlap_seconds
    if not 0 <= seconds <= MAX_OVERLAP_SECONDS:
        raise InvalidInput("overlap_seconds", f"must be from 0 to {MAX_OVERLAP_SECONDS} (30 days)")
    kind = _parse_scheme(scheme or next((secret.scheme for secret in endpoint.secrets), "v1"))
    connection.execute(statement("webhooks", "secret_expire"), {"id": endpoint_id, "overlap_seconds": seconds})
    secret = _add_secret(connection, endpoint_id, kind, encryptor)
    record(
        connection, actor, "webhook.rotate", _target(endpoint_id), after={"scheme": kind, "overlap_seconds": seconds}
    )
    return EndpointWithSecret(get_endpoint(connection, endpoint_id), secret)


def disable(connection: Connection, actor: Actor, endpoint_id: str, reason: str) -> int:
    """Stop sending to an endpoint, and suppress its waiting messages; returns how many were suppressed."""
    get_endpoint(connection, endpoint_id)
    reason = _check_description(reason, "reason").strip()
    if not reason:
        raise InvalidInput("reason", "is required; say in a few words why it is disabled, for operators")
    count = _disable_silently(connection, endpoint_id, reason)
    if count is None:
        raise InvalidEndpointState(f"endpoint {endpoint_id} is already disabled")
    record(
        connection, actor, "webhook.disable", _target(endpoint_id), after={"reason": reason, "suppressed_count": count}
    )
    return count


def enable(connection: Connection, actor: Actor, endpoint_id: str) -> Endpoint:
    """Resume sending to an endpoint, from the next event on; `replay_since` sends the events that it has missed."""
    before = get_endpoint(connection, endpoint_id)
    if not fetch(connection, statement("webhooks", "endpoint_enable"), str, {"id": endpoint_id}):
        raise InvalidEndpointState(f"endpoint {endpoint_id} is already active")
    record(connection, actor, "webhook.enable", _target(endpoint_id), before={"reason": before.disabled_reason})
    return get_endpoint(connection, endpoint_id)


def delete(connection: Connection, actor: Actor, endpoint_id: str) -> int:
    """Delete an endpoint with its secrets, and suppress its waiting messages; returns how many were suppressed."""
    before = {"event_types": get_endpoint(connection, endpoint_id).event_types}
    count = _disable_silently(connection, endpoint_id, "it was deleted") or 0
    connection.execute(statement("webhooks", "endpoint_delete"), {"id": endpoint_id})
    record(connection, actor, "webhook.delete", _target(endpoint_id), before=before, after={"suppressed_count": count})
    return count


def send_test(connection: Connection, actor: Actor, endpoint_id: str) -> int:
    """Send an event of the type `backline.test` to an active endpoint, whatever it subscribes to; the message's id."""
    _require_active(connection, endpoint_id)
    payload = {
        "event_type": TEST_EVENT,
        "data": {"endpoint": endpoint_id, "text": "A test event: the endpoint works if you can read this."},
    }
    message_id = enqueue(connection, "webhook", endpoint_id, payload, request_id=actor.request_id)
    record(connection, actor, "webhook.test", _target(endpoint_id), after={"message": message_id})
    return message_id


def replay_one(connection: Connection, actor: Actor, endpoint_id: str, message_id: int) -> int:
    """Send the event of one message to an endpoint again, under the event's own id; the new message's id."""
    _require_active(connection, endpoint_id)
    values = {"id": endpoint_id, "message_id": message_id}
    event = fetch_one(connection, statement("webhooks", "endpoint_message_get"), dict[str, Any], values)
    if event is None:
        raise InvalidInput("message", f"{message_id} is not an event for endpoint {endpoint_id}; give the id of one")
    message = NewMessage("webhook", endpoint_id, event, request_id=actor.request_id, replay_of=message_id)
    [new] = enqueue_many(connection, [message])
    record(connection, actor, "webhook.replay", _target(endpoint_id), after={"message": message_id, "new": new})
    return new


def replay_since(
    connection: Connection, actor: Actor, endpoint_id: str, since: datetime, *, include_delivered: bool = False
) -> list[int]:
    """Send an endpoint the events since then that it subscribes to and has missed; returns the ids of the new messages.

    Events from before it existed and while it was disabled are included; with `include_delivered` also those that were
    delivered. At most 10,000 at a time, oldest first.
    """
    endpoint = _require_active(connection, endpoint_id)
    values = {
        "id": endpoint_id, "since": since, "include_delivered": include_delivered, "event_types": list(endpoint.event_types),
        "request_id": actor.request_id, "batch_limit": BATCH_LIMIT,
    }  # fmt: skip
    ids = fetch(connection, statement("webhooks", "event_replay"), int, values)
    after = {"since": since.isoformat(), "include_delivered": include_delivered, "count": len(ids)}
    record(connection, actor, "webhook.replay", _target(endpoint_id), after=after)
    return sorted(ids)


def _require_active(connection: Connection, endpoint_id: str) -> Endpoint:
    endpoint = get_endpoint(connection, endpoint_id)
    if endpoint.state != "active":
        raise InvalidEndpointState(f"endpoint {endpoint_id} is disabled: {endpoint.disabled_reason}; enable it first")
    return endpoint


def _target(endpoint_id: str) -> str:
    return f"webhook/{endpoint_id}"


def _disable_silently(connection: Connection, endpoint_id: str, why: str) -> int | None:
    """Disable an endpoint without a notification; the number of suppressed messages, or None if it was disabled already."""
    values = {"id": endpoint_id, "reason": why, "min_failing_seconds": None}
    return fetch_one(connection, statement("webhooks", "endpoint_disable"), int, values)


def _parse_scheme(text: str) -> Scheme:
    for scheme in SCHEMES:
        if text == scheme:
            return scheme
    raise InvalidInput("scheme", "must be v1 (a shared secret) or v1a (a public key for the receiver)")


def _add_secret(connection: Connection, endpoint_id: str, scheme: Scheme, encryptor: Encryptor) -> str | None:
    secret = new_secret(scheme)
    public = public_key(secret)
    values = {"id": endpoint_id, "scheme": scheme, "ciphertext": encryptor.encrypt(secret), "public_key": public}
    connection.execute(statement("webhooks", "secret_insert"), values)
    return secret if public is None else None


def _load_secrets(connection: Connection, stored: Sequence[_StoredEndpoint]) -> list[Endpoint]:
    secrets = defaultdict[str, list[Secret]](list)
    ids = [each.id for each in stored]
    for found in fetch(connection, statement("webhooks", "secret_list"), _StoredSecret, {"ids": ids}):
        secret = Secret(found.scheme, found.public_key, found.created_at, found.expires_at)
        secrets[found.endpoint_id].append(secret)
    return [
        Endpoint(**{**asdict(each), "event_types": tuple(each.event_types)}, secrets=tuple(secrets[each.id]))
        for each in stored
    ]


def _check_url(url: str, settings: WebhookSettings) -> str:
    """An absolute https URL (http if allowed), or InvalidInput; a host name's address is checked on connecting."""
    url = url.strip()
    if not 1 <= len(url) <= MAX_URL_LENGTH:
        raise InvalidInput("url", f"must have 1 to {MAX_URL_LENGTH} characters")
    invalid = InvalidInput("url", 'is not a valid URL; write it like "https://shop.example/hooks"')
    try:
        parts = urlsplit(url)
        port = parts.port
        (parts.hostname or "").encode("idna")
    except ValueError:
        raise invalid from None
    if not url.isprintable() or " " in url or port == 0:
        raise invalid
    schemes = ["https"] if settings.require_https else ["https", "http"]
    if parts.scheme not in schemes or not parts.hostname:
        prefixes = " or ".join(f"{scheme}://" for scheme in schemes)
        raise InvalidInput("url", f"must begin with {prefixes} and a host name")
    if parts.username is not None or parts.password is not None:
        raise InvalidInput("url", "must not contain a user or password; the signature identifies the sender")
    if parts.fragment:
        raise InvalidInput("url", "must not contain '#': the part after it is never sent")
    try:
        ip_address(parts.hostname)
    except ValueError:
        if _SHORT_ADDRESS.fullmatch(parts.hostname):
            raise InvalidInput("url", f"has the address {parts.hostname!r}; write its four numbers") from None
        return url
    if not AddressGuard(settings.allowed_addresses).allows(parts.hostname, port or DEFAULT_PORTS[parts.scheme]):
        raise AddressNotAllowed(parts.hostname, parts.hostname)
    return url


def _check_event_types(event_types: Sequence[str]) -> tuple[str, ...]:
    """Event types to subscribe to: "order.paid", "order.*" or "*"; InvalidInput for the field `event_types`."""
    unique = tuple(dict.fromkeys(event_types))
    if not 1 <= len(unique) <= MAX_EVENT_TYPES:
        raise InvalidInput("event_types", f'give 1 to {MAX_EVENT_TYPES} event types; ["*"] subscribes to all')
    for event_type in unique:
        if not _is_event_type(event_type):
            raise InvalidInput("event_types", f'{event_type[:80]!r} must be like "order.paid", "order.*" or "*"')
    return unique


def _check_description(text: str, field: str = "description") -> str:
    if len(text) > MAX_DESCRIPTION_LENGTH:
        raise InvalidInput(field, f"must have at most {MAX_DESCRIPTION_LENGTH} characters")
    try:
        return check_line(text) if text.strip() else ""
    except ValueError as exc:
        raise InvalidInput(field, str(exc)) from None


def _is_event_type(text: str) -> bool:
    try:
        if text != "*":
            check_event_type(text.removesuffix(".*"))
    except ValueError:
        return False
    return len(text) <= MAX_EVENT_TYPE_LENGTH
