"""Settings of the channels that messages go out by; `backline.settings` has the others."""

from __future__ import annotations

from pydantic import Field, PositiveFloat, field_validator

from backline.channels.webhook.ssrf_guard import parse_allowed_address
from backline.settings.base import Section, register

_OFFICE_MEDIA_TYPE = "application/vnd.openxmlformats-officedocument"
ATTACHMENT_TYPES = frozenset(
    {f"application/{name}" for name in ("pdf", "zip", "json")}
    | {f"text/{name}" for name in ("plain", "csv", "html", "calendar")}
    | {f"image/{name}" for name in ("png", "jpeg", "gif", "webp")}
    | {f"{_OFFICE_MEDIA_TYPE}.spreadsheetml.sheet", f"{_OFFICE_MEDIA_TYPE}.wordprocessingml.document"}
)


@register("email")
class EmailSettings(Section):
    """How email goes out."""

    connection: str = "smtp_default"
    from_address: str = "Backline <backline@localhost.localdomain>"
    message_id_domain: str = "backline.localdomain"
    connections: int = Field(8, ge=1, le=64)
    messages_per_connection: int = Field(2, ge=1, le=8)
    timeout_seconds: float = Field(30.0, gt=0, le=300)
    attachment_folder: str = "include/attachments"
    attachment_max_mib: float = Field(10.0, gt=0, le=50)
    attachment_types: frozenset[str] = ATTACHMENT_TYPES


@register("sms")
class SmsSettings(Section):
    """How text messages go out."""

    connection: str = "sms_gateway"
    sender: str = "Backline"
    connections: int = Field(16, ge=1, le=64)
    timeout_seconds: float = Field(15.0, gt=0, le=120)
    max_segments: int = Field(10, ge=1, le=24)
    status_callback: str = ""


@register("push")
class PushSettings(Section):
    """How push notifications go out."""

    connection: str = "push_gateway"
    connections: int = Field(16, ge=1, le=64)
    timeout_seconds: float = Field(15.0, gt=0, le=120)


@register("webhooks")
class WebhookSettings(Section):
    """How events go out to webhook endpoints."""

    timeout_seconds: float = Field(15.0, gt=0, le=120)
    concurrency: int = Field(32, ge=1, le=256)
    retry_delays_seconds: tuple[PositiveFloat, ...] = Field(
        (5.0, 300.0, 1800.0, 7200.0, 18000.0, 36000.0, 36000.0), min_length=1
    )
    retry_jitter: float = Field(0.2, ge=0, lt=1)
    disable_after_seconds: float = Field(432_000.0, ge=1)
    rotation_overlap_seconds: float = Field(86_400.0, ge=0)
    require_https: bool = True
    allowed_addresses: tuple[str, ...] = ()

    @field_validator("allowed_addresses")
    @classmethod
    def _check_addresses(cls, allowed: tuple[str, ...]) -> tuple[str, ...]:
        for entry in allowed:
            parse_allowed_address(entry)
        return allowed
