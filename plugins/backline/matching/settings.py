"""Settings of matching: section [matching] of backline.toml, which explains each."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from backline.settings.base import Section, register


class Weights(Section):
    """Weights of the components of a score, in per cent."""

    price: int = Field(40, ge=0, le=100)
    lead_time: int = Field(25, ge=0, le=100)
    quality: int = Field(25, ge=0, le=100)
    capacity: int = Field(10, ge=0, le=100)

    @model_validator(mode="after")
    def _check_sum(self) -> Self:
        total = self.price + self.lead_time + self.quality + self.capacity
        if total != 100:
            raise ValueError(f"price, lead_time, quality and capacity must add up to 100, not {total}")
        return self


@register("matching")
class MatchingSettings(Section):
    """How purchase orders are matched with offers."""

    weights: Weights = Field(default_factory=Weights)
    batch_limit: int = Field(10_000, ge=1, le=100_000)
