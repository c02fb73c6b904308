"""Settings of subscriptions: section [subscriptions] of backline.toml, which explains each."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from backline.settings.base import Section, register, url_with


@register("subscriptions")
class SubscriptionSettings(Section):
    """How subscriptions are renewed, and the pages that their messages link to."""

    chunk_size: int = Field(1000, ge=1, le=10_000)
    max_chunks: int = Field(200, ge=1, le=1000)
    max_parallel_chunks: int = Field(3, ge=1, le=64)
    out_of_stock_retry_days: int = Field(1, ge=1, le=30)
    reminder_batch_limit: int = Field(100_000, ge=1, le=1_000_000)
    order_url: Annotated[str, url_with("order")] = "http://localhost:8080/orders/{order}"
    manage_url: Annotated[str, url_with("")] = "http://localhost:8080/account/subscriptions"
