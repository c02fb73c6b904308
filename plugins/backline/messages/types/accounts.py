"""Accounts: passwords, email addresses and security alerts."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import quote

from pydantic import Field

from backline.messages.fields import HttpsUrl, Line, Name, Paragraph, Timestamp, TimeZone, Token, WebUrl
from backline.messages.registry import register
from backline.messages.templated import DatedMessage, TemplatedMessage
from backline.rendering.settings import LinkSettings
from backline.settings import settings


class TokenMessage(DatedMessage):
    """An email whose link, the setting in `[links]` of the type's name, contains a secret token; it expires with that."""

    secret_fields: ClassVar[frozenset[str]] = frozenset({"token"})
    expiry_field: ClassVar[str | None] = "valid_until"

    token: Token = Field(description="Becomes part of the link.", examples=["Xk3vQ9-made-up-b7RzL2"])
    valid_until: Timestamp | None = Field(
        None, description="When the token expires; shown in the message, which is not sent after it."
    )

    def template_and_context(self) -> tuple[str, dict[str, Any]]:
        """With the link instead of the token."""
        name, context = super().template_and_context()
        address: str = getattr(settings().section(LinkSettings), self.type_name)
        context["link"] = address.replace("{token}", quote(context.pop("token"), safe=""))
        return name, context


@register("password_reset", email="email.urgent")
class PasswordReset(TokenMessage):
    """A link to set a new password."""

    secret_references: ClassVar = {"token": ("password_reset_token",)}
    example: ClassVar = {
        "name": "Ann", "token": {"$ref": "password_reset_token", "id": 17}, "valid_until": "2030-01-31T12:00:00Z",
        "zone": "Europe/Berlin", "requested_from": "Firefox on Linux, near Berlin",
    }  # fmt: skip

    requested_from: Line | None = Field(
        None, description="Device and place, so that the person recognizes a stranger's attempt."
    )


@register("account_verification", email="email.urgent")
class AccountVerification(TokenMessage):
    """A link that verifies an email address."""

    secret_references: ClassVar = {"token": ("email_verification_token",)}
    example: ClassVar = {
        "name": "Ann", "token": {"$ref": "email_verification_token", "id": 18}, "valid_until": "2030-01-31T12:00:00Z",
        "zone": "Europe/Berlin",
    }  # fmt: skip


@register("security_alert", email="email.urgent")
class SecurityAlert(DatedMessage):
    """Notifies a person of an event in their account, and what to do if it was not them."""

    example: ClassVar = {
        "name": "Ann", "event": "new_sign_in", "occurred_at": "2026-03-01T18:30:00Z", "device": "Chrome on Windows",
        "location": "Lisbon, Portugal", "ip_address": "203.0.113.7",
        "secure_url": "https://shop.example/account/security", "zone": "Europe/Berlin",
    }  # fmt: skip

    event: Literal[
        "new_sign_in", "password_changed", "email_changed", "mfa_disabled", "account_locked", "unusual_activity"
    ] = Field(description="What happened.")
    occurred_at: Timestamp = Field(description="When.")
    secure_url: HttpsUrl = Field(description="Where to secure the account.")
    device: Line | None = Field(None, description="Browser and system.")
    location: Line | None = Field(None, description="City and country, as far as they are known.")
    ip_address: Annotated[Line, Field(max_length=45)] | None = Field(None, description="Where it came from.")


@register("security_alert_admin", email="email.urgent")
class SecurityAlertAdmin(TemplatedMessage):
    """Notifies an admin of an anomaly in an account, with the reasons."""

    example: ClassVar = {
        "anomaly": "brute_force", "severity": "high", "account": "ann@shop.example", "score": 87,
        "explanation": "412 failed sign-ins from 3 addresses in 10 minutes; this account has had 2 a week so far.",
        "evidence": {"Addresses": "203.0.113.7, 203.0.113.9, 198.51.100.4", "Successful": "none"},
        "occurred_at": "2026-03-01T18:30:00Z", "review_url": "https://shop.example/admin/anomalies/311",
        "zone": "Europe/Berlin",
    }  # fmt: skip

    anomaly: Literal["brute_force", "impossible_travel", "unusual_volume", "privilege_change", "other"] = Field(
        description="Its kind."
    )
    severity: Literal["low", "medium", "high", "critical"] = Field(description="How bad it is.")
    account: Name = Field(description="The affected account.")
    explanation: Paragraph = Field(description="Why it counts as an anomaly.")
    occurred_at: Timestamp = Field(description="When.")
    review_url: WebUrl = Field(description="Where to review it.")
    score: int | None = Field(None, ge=0, le=100, description="Of 100.")
    evidence: dict[str, Line] | None = Field(None, max_length=20, description="Names and values to show.")
    zone: TimeZone | None = Field(
        None, description="Of the time in it; the setting `templates.time_zone` when omitted."
    )
