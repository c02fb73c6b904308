"""Settings of orders: section [orders] of backline.toml, which explains each."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, PositiveFloat, model_validator

from backline.settings.base import Section, register, url_with

StuckState = Literal["pending", "reserved", "paid", "confirmed", "shipped"]
STUCK_HOURS: dict[StuckState, float] = {
    "pending": 2.0,
    "reserved": 96.0,
    "paid": 2.0,
    "confirmed": 72.0,
    "shipped": 240.0,
}


@register("orders")
class OrderSettings(Section):
    """How orders are processed, and when customers are reminded of them."""

    order_url: Annotated[str, url_with("order")] = "http://localhost:8080/orders/{order}"
    grace_seconds: float = Field(300.0, ge=0)
    payment_timeout_hours: float = Field(72.0, gt=0, le=8760)
    batch_limit: int = Field(1000, ge=1, le=100_000)
    reminder_batch_limit: int = Field(10_000, ge=1, le=1_000_000)
    stuck_hours: dict[StuckState, PositiveFloat] = STUCK_HOURS
    payment_missing_hours: float = Field(24.0, gt=0)
    payment_missing_again_hours: float = Field(48.0, gt=0)
    review_days: float = Field(7.0, gt=0)
    review_until_days: float = Field(30.0, gt=0)

    @model_validator(mode="after")
    def _check_order_of_times(self) -> Self:
        if not self.payment_missing_hours < self.payment_missing_again_hours < self.payment_timeout_hours:
            raise ValueError(
                "payment_missing_hours, payment_missing_again_hours and payment_timeout_hours must grow in this order: "
                "a reminded customer must still be able to pay"
            )
        if self.review_days >= self.review_until_days:
            raise ValueError("review_until_days must be more than review_days")
        return self
