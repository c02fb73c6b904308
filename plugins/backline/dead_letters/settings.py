"""The settings of dead letters: section [dead_letters] of backline.toml, where each is explained."""

from __future__ import annotations

from pydantic import Field

from backline.settings.base import Section, register


@register("dead_letters")
class DeadLetterSettings(Section):
    """How long dead letters are kept, and where they go."""

    retention_hours: float = Field(168.0, ge=1)
    max_count: int = Field(10_000, ge=1)
    archive_folder: str = "archive/dead_letters"
    poll_interval_seconds: float = Field(5.0, ge=1, le=30)
