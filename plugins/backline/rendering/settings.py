"""What templates can use, and where links of messages lead: sections [templates] and [links] of backline.toml."""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import field_validator

from backline.preferences.quiet_hours import find_time_zone
from backline.settings.base import Section, register

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@register("templates")
class TemplateSettings(Section):
    """What every template can use."""

    product_name: str = "Backline"
    product_url: str = "http://localhost:8080"
    support_email: str = "support@localhost.localdomain"
    language: str = "en"
    time_zone: str = "UTC"

    @field_validator("time_zone")
    @classmethod
    def _validate_time_zone(cls, zone: str) -> str:
        if find_time_zone(zone) is None:
            raise ValueError(f'{zone!r} is not a time zone; give one of IANA\'s, like "Europe/Berlin"')
        return zone


@register("links")
class LinkSettings(Section):
    """Where links of messages lead: pages of the app; `{token}` stands for the message's token."""

    password_reset: str = "http://localhost:8080/reset-password?token={token}"  # noqa: S105 - the place of one
    account_verification: str = "http://localhost:8080/verify-email?token={token}"
    unsubscribe: str = "http://localhost:8080/backline/unsubscribe/{token}"

    @field_validator("*")
    @classmethod
    def _validate_link(cls, link: str) -> str:
        parts = urlsplit(link)
        if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOOPBACK):
            raise ValueError(f"{link!r} must begin with https:// (http:// only for localhost: it carries a token)")
        if link.count("{token}") != 1 or "{token}" in parts.netloc:
            raise ValueError(f"{link!r} must have {{token}} once, after the host: that is where the token goes")
        return link
