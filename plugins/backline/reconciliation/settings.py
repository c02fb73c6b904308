"""Settings of reconciliation: section [reconciliation] of backline.toml, which explains each."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from backline.settings.base import Section, register


@register("reconciliation")
class ReconciliationSettings(Section):
    """Windows, folders, and the limits of fixes and alerts."""

    statement_folder: str = "archive/provider_lists"
    report_folder: str = "archive/reconciliation"
    overlap_hours: float = Field(24.0, gt=0, le=720)
    initial_window_days: float = Field(7.0, gt=0, le=366)
    grace_seconds: float = Field(900.0, ge=0, le=86_400)
    batch_limit: int = Field(100, ge=0, le=10_000)
    alert_threshold: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _check_overlap(self) -> Self:
        if self.overlap_hours * 3600 < 2 * self.grace_seconds:
            raise ValueError(
                "overlap_hours must be at least twice grace_seconds, or payments between windows are missed"
            )
        return self
