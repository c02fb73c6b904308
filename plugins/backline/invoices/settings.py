"""Settings of invoices: section [invoices] of backline.toml, which explains each."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from backline.settings.base import Section, register

Series = Annotated[str, Field(pattern=r"^[A-Z0-9-]*(\{year\})?[A-Z0-9-]*$", min_length=1, max_length=40)]


@register("invoices")
class InvoiceSettings(Section):
    """The seller, and how invoices are numbered, laid out and stored."""

    seller_name: str = Field("Backline", min_length=1, max_length=200)
    seller_address: tuple[str, ...] = Field(("1 High Street", "10115 Berlin", "Germany"), min_length=1, max_length=8)
    seller_tax_id: str = Field("", max_length=60)
    seller_email: str = Field("billing@localhost.localdomain", max_length=254)
    page_size: Literal["auto", "A4", "Letter"] = "auto"
    series: Series = "INV-{year}"
    credit_note_series: Series = "CRN-{year}"
    folder: str = "archive/invoices"
    receipt_max_age_hours: float = Field(72.0, ge=0)
    lookback_days: float = Field(7.0, gt=0, le=366)
    batch_limit: int = Field(200, ge=1, le=10_000)
