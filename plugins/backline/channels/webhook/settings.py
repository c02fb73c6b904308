"""Settings of webhooks: section [webhooks] of backline.toml, which explains each."""

from __future__ import annotations

from pydantic import Field, PositiveFloat, field_validator

from backline.channels.webhook.ssrf_guard import parse_allowed_address
from backline.settings.base import Section, register


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
