"""Validates an endpoint's URL, event types and description."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from urllib.parse import SplitResult, urlsplit

from backline.channels.webhook.ssrf_guard import AddressGuard, AddressNotAllowed
from backline.errors import InvalidInput
from backline.messages.fields import check_line
from backline.messages.types.webhooks import check_event_type
from backline.webhooks.settings import WebhookSettings

MAX_URL_LENGTH = 2000
MAX_EVENT_TYPES = 100
MAX_EVENT_TYPE_LENGTH = 128
MAX_DESCRIPTION_LENGTH = 200
DEFAULT_PORTS = {"http": 80, "https": 443}


def check_url(url: str, settings: WebhookSettings) -> str:
    """An absolute https URL (http if the settings allow it); InvalidInput for the field `url`.

    An IP address in the URL is checked here, a host name when it is connected to: it may resolve differently by then.
    """
    url = url.strip()
    if not 1 <= len(url) <= MAX_URL_LENGTH:
        raise InvalidInput("url", f"must have 1 to {MAX_URL_LENGTH} characters")
    parts, port = _split_url(url)
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
        return url
    if not AddressGuard(settings.allowed_addresses).allows(parts.hostname, port or DEFAULT_PORTS[parts.scheme]):
        raise AddressNotAllowed(parts.hostname, parts.hostname)
    return url


def check_event_types(event_types: Sequence[str]) -> tuple[str, ...]:
    """Event types to subscribe to: "order.paid", "order.*" or "*"; InvalidInput for the field `event_types`."""
    unique = tuple(dict.fromkeys(event_types))
    if not 1 <= len(unique) <= MAX_EVENT_TYPES:
        raise InvalidInput("event_types", f'give 1 to {MAX_EVENT_TYPES} event types; ["*"] subscribes to all')
    for event_type in unique:
        if not _is_event_type(event_type):
            raise InvalidInput("event_types", f'{event_type[:80]!r} must be like "order.paid", "order.*" or "*"')
    return unique


def check_description(text: str, field: str = "description") -> str:
    """One line of text, or an empty one; InvalidInput for the field."""
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


def _split_url(url: str) -> tuple[SplitResult, int | None]:
    error = InvalidInput("url", 'is not a valid URL; write it like "https://shop.example/hooks"')
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise error from None
    if not url.isprintable() or " " in url or port == 0:
        raise error
    return parts, port
