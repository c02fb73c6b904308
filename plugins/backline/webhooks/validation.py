"""What people may give an endpoint: its URL, the events it gets, a description."""

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
    """An absolute https URL (http where the settings take it); InvalidInput for the field `url`.

    An address that stands in it is judged here; a name only when it is connected to, as it can lead elsewhere by then.
    """
    url = url.strip()
    if not 1 <= len(url) <= MAX_URL_LENGTH:
        raise InvalidInput("url", f"must have 1 to {MAX_URL_LENGTH} characters")
    parts, port = _split_url(url)
    schemes = ["https"] if settings.require_https else ["https", "http"]
    if parts.scheme not in schemes or not parts.hostname:
        raise InvalidInput(
            "url", f"must begin with {' or '.join(f'{scheme}://' for scheme in schemes)} and a host's name"
        )
    if parts.username is not None or parts.password is not None:
        raise InvalidInput("url", "must not hold a user or password; the signature tells the receiver who sends")
    if parts.fragment:
        raise InvalidInput("url", "must not have a part after '#': it is never sent")
    try:
        ip_address(parts.hostname)
    except ValueError:
        return url
    if not AddressGuard(settings.allowed_addresses).allows(parts.hostname, port or DEFAULT_PORTS[parts.scheme]):
        raise AddressNotAllowed(parts.hostname, parts.hostname)
    return url


def check_event_types(event_types: Sequence[str]) -> tuple[str, ...]:
    """Event types to get: "order.paid", "order.*" or "*"; InvalidInput for the field `event_types`."""
    wanted = tuple(dict.fromkeys(event_types))
    if not 1 <= len(wanted) <= MAX_EVENT_TYPES:
        raise InvalidInput("event_types", f'give 1 to {MAX_EVENT_TYPES} event types; ["*"] stands for every one')
    for one in wanted:
        try:
            if one != "*":
                check_event_type(one.removesuffix(".*"))
        except ValueError:
            one_is_wrong = True
        else:
            one_is_wrong = len(one) > MAX_EVENT_TYPE_LENGTH
        if one_is_wrong:
            raise InvalidInput("event_types", f'{one[:80]!r} must be like "order.paid", "order.*" or "*"')
    return wanted


def check_description(text: str, field: str = "description") -> str:
    """One line for people, or nothing; InvalidInput for the field."""
    if len(text) > MAX_DESCRIPTION_LENGTH:
        raise InvalidInput(field, f"must have at most {MAX_DESCRIPTION_LENGTH} characters")
    try:
        return check_line(text) if text.strip() else ""
    except ValueError as exc:
        raise InvalidInput(field, str(exc)) from None


def _split_url(url: str) -> tuple[SplitResult, int | None]:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise InvalidInput("url", 'cannot be read; write it like "https://shop.example/hooks"') from None
    if not url.isprintable() or " " in url or port == 0:
        raise InvalidInput("url", 'cannot be read; write it like "https://shop.example/hooks"')
    return parts, port
