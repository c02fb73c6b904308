"""Settings of text messages: section [sms] of backline.toml, which explains each."""

from __future__ import annotations

from pydantic import Field

from backline.settings.base import Section, register


@register("sms")
class SmsSettings(Section):
    """How text messages go out."""

    connection: str = "sms_gateway"
    sender: str = "Backline"
    connections: int = Field(16, ge=1, le=64)
    timeout_seconds: float = Field(15.0, gt=0, le=120)
    max_segments: int = Field(10, ge=1, le=24)
    status_callback: str = ""
