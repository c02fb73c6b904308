"""Settings of push notifications: section [push] of backline.toml, which explains each."""

from __future__ import annotations

from pydantic import Field

from backline.settings.base import Section, register


@register("push")
class PushSettings(Section):
    """How push notifications go out."""

    connection: str = "push_gateway"
    connections: int = Field(16, ge=1, le=64)
    timeout_seconds: float = Field(15.0, gt=0, le=120)
