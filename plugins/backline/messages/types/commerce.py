"""Orders, payments and subscriptions."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from backline.channels.base import EmailContent
from backline.messages.attachments import PdfAttachment, read_attachment
from backline.messages.base import PayloadPart
from backline.messages.fields import (
    SQL_RULES,
    Currency,
    Day,
    HttpsUrl,
    Line,
    Lines,
    MinorUnits,
    Name,
    Paragraph,
    Timestamp,
    WebUrl,
    needs,
)
from backline.messages.registry import register
from backline.messages.templated import DatedMessage, PersonalMessage, TemplatedSms
from backline.validation_errors import field_error

DocumentNumber = Annotated[Line, Field(max_length=60)]
ORDER = Field(description="Its number, as the customer knows it.")
ORDER_URL = Field(description="The order's page.")
CURRENCY = Field(description="Of all amounts, as its ISO 4217 code.")
MAX_QUANTITY = 1_000_000
MAX_LINES = 100
"""Lines of an order in a message."""
ADDRESS = ["Ann Example", "1 High Street", "10115 Berlin", "Germany"]


class Item(PayloadPart):
    """A product and its quantity."""

    description: Name
    quantity: Annotated[int, Field(ge=1, le=MAX_QUANTITY)] = 1


class OrderLine(Item):
    """A line of an order: an item and its price."""

    unit_price: MinorUnits


@register("order_confirmation", email="email.normal", sms="sms.normal")
class OrderConfirmation(DatedMessage, TemplatedSms):
    """Confirms an order: its lines, its total and the delivery address."""

    example: ClassVar = {
        "name": "Ann", "order": "1042", "placed_at": "2026-03-01T18:30:00Z",
        "lines": [
            {"description": "Espresso cups, set of 4", "quantity": 2, "unit_price": 2450},
            {"description": "Coffee beans, 1 kg", "quantity": 1, "unit_price": 1890},
        ],
        "shipping": 490, "tax": 1160, "total": 7280, "currency": "EUR", "delivery_address": ADDRESS,
        "estimated_delivery": "2026-03-05", "order_url": "https://shop.example/orders/1042", "zone": "Europe/Berlin",
    }  # fmt: skip

    order: DocumentNumber = ORDER
    placed_at: Timestamp = Field(description="When it was ordered.")
    lines: tuple[OrderLine, ...] = Field(
        min_length=1,
        max_length=MAX_LINES,
        description="Each with `description`, `quantity` (default 1) and `unit_price` in cents.",
        examples=[[{"description": "Coffee beans, 1 kg", "quantity": 1, "unit_price": 1890}]],
    )
    currency: Currency = CURRENCY
    total: MinorUnits = Field(description="To pay, in the currency's smallest unit (cents).")
    order_url: WebUrl = ORDER_URL
    shipping: MinorUnits | None = Field(None, description="Its price; 0 is shown as free.")
    discount: MinorUnits | None = Field(None, description="The amount deducted.")
    tax: MinorUnits | None = Field(None, description="Included in the total.")
    delivery_address: Lines | None = Field(None, description="As on a label, one line each.")
    estimated_delivery: Day | None = Field(None, description="The day.")


@register("order_status", email="email.normal")
class OrderStatus(PersonalMessage):
    """Notifies the customer of an order's new status; each status has its own text."""

    example: ClassVar = {
        "name": "Ann", "order": "1042", "status": "in_production", "estimated_delivery": "2026-03-05",
        "note": "The blue glaze takes a day longer than the white one.",
        "order_url": "https://shop.example/orders/1042",
    }  # fmt: skip

    order: DocumentNumber = ORDER
    status: Literal[
        "received",
        "confirmed",
        "in_production",
        "ready",
        "shipped",
        "delivered",
        "on_hold",
        "cancelled",
        "refunded",
        "returned",
    ] = Field(description="What it is now.")
    order_url: WebUrl = ORDER_URL
    estimated_delivery: Day | None = Field(None, description="The day, if there is one yet.")
    note: Paragraph | None = Field(None, description="Further text of your own.")


@register("order_shipped", email="email.normal", sms="sms.normal")
class OrderShipped(PersonalMessage, TemplatedSms):
    """Notifies the customer that the parcel was shipped, with a tracking link."""

    example: ClassVar = {
        "name": "Ann", "order": "1042", "carrier": "Parcel Post", "tracking_number": "PP 4711 0815 99",
        "tracking_url": "https://carrier.example/track/4711081599",
        "items": [{"description": "Espresso cups, set of 4", "quantity": 2}, {"description": "Coffee beans, 1 kg"}],
        "estimated_delivery": "2026-03-05", "delivery_address": ADDRESS,
    }  # fmt: skip

    order: DocumentNumber = ORDER
    carrier: Name = Field(description="Who delivers it.")
    tracking_url: HttpsUrl = Field(description="Where the parcel can be tracked; https only.")
    tracking_number: DocumentNumber | None = Field(None, description="The carrier's.")
    items: tuple[Item, ...] | None = Field(
        None,
        max_length=MAX_LINES,
        description="What is in the parcel: each with `description` and `quantity` (default 1).",
    )
    estimated_delivery: Day | None = Field(None, description="The day.")
    delivery_address: Lines | None = Field(None, description="As on a label, one line each.")


@register("order_reminder", email="email.normal")
class OrderReminder(PersonalMessage):
    """Reminds the customer of an open step of an order, or asks for a review."""

    model_config = ConfigDict(json_schema_extra={SQL_RULES: {"currency": needs("amount", "currency")}})
    example: ClassVar = {
        "name": "Ann", "order": "1042", "stage": "payment_due", "due_on": "2026-03-08", "amount": 7280,
        "currency": "EUR", "order_url": "https://shop.example/orders/1042",
    }  # fmt: skip

    order: DocumentNumber = ORDER
    stage: Literal["confirmation_due", "payment_due", "pickup_due", "review_due"] = Field(
        description="What the order waits for."
    )
    order_url: WebUrl = ORDER_URL
    due_on: Day | None = Field(None, description="The deadline.")
    amount: MinorUnits | None = Field(None, description="To pay, in the currency's smallest unit (cents).")
    currency: Currency | None = Field(None, description="Of the amount, as its ISO 4217 code.")

    @model_validator(mode="after")
    def _amount_has_a_currency(self) -> Self:
        if self.amount is not None and self.currency is None:
            raise field_error("currency", "is required with an amount; add it")
        return self


@register("payment_receipt", email="email.normal")
class PaymentReceipt(DatedMessage):
    """Confirms a payment, with the invoice attached."""

    example: ClassVar = {
        "name": "Ann", "what": "Order 1042", "receipt": "R-2026-0311", "paid_at": "2026-03-01T18:31:00Z",
        "amount": 7280, "currency": "EUR", "method": "Visa ending in 4242",
        "invoice": {"path": "samples/invoice.pdf", "filename": "Invoice R-2026-0311.pdf"}, "zone": "Europe/Berlin",
    }  # fmt: skip

    what: Name = Field(description="What was paid for.")
    paid_at: Timestamp = Field(description="When.")
    amount: MinorUnits = Field(description="In the currency's smallest unit (cents).")
    currency: Currency = CURRENCY
    receipt: DocumentNumber | None = Field(None, description="Its number.")
    method: Name | None = Field(None, description="The card or account, as the customer knows it.")
    invoice: PdfAttachment | None = Field(
        None, description="A PDF: by `path` under the allowed folder, or by `filename` with `content_base64`."
    )

    def email(self) -> EmailContent:
        """The rendered email with the invoice."""
        content = super().email()
        return content._replace(attachments=(read_attachment(self.invoice, "invoice"),)) if self.invoice else content

    def template_and_context(self) -> tuple[str, dict[str, Any]]:
        """With only the invoice's name: the template does not get the file."""
        name, context = super().template_and_context()
        return name, {**context, "invoice": self.invoice and self.invoice.display_name}


@register("payment_failed", email="email.urgent")
class PaymentFailed(PersonalMessage):
    """Notifies the customer that a payment failed, why, and how to fix it."""

    example: ClassVar = {
        "name": "Ann", "what": "Order 1042", "amount": 7280, "currency": "EUR", "reason": "card_expired",
        "method": "Visa ending in 4242", "fix_url": "https://shop.example/orders/1042/pay", "retry_on": "2026-03-04",
    }  # fmt: skip

    what: Name = Field(description="What the payment is for.")
    amount: MinorUnits = Field(description="In the currency's smallest unit (cents).")
    currency: Currency = CURRENCY
    reason: Literal[
        "card_declined",
        "card_expired",
        "insufficient_funds",
        "authentication_required",
        "provider_unavailable",
        "other",
    ] = Field(description="Why; each reason has its own advice.")
    fix_url: HttpsUrl = Field(description="Where it is paid, or the card changed; https only.")
    method: Name | None = Field(None, description="The card or account, as the customer knows it.")
    retry_on: Day | None = Field(None, description="When the payment is retried automatically, if it is.")


@register("subscription_renewal_reminder", email="email.normal")
class SubscriptionRenewalReminder(PersonalMessage):
    """Reminds the customer a day ahead that a subscription renews, and of the price."""

    example: ClassVar = {
        "name": "Ann", "product": "Coffee beans, 1 kg a month", "renews_on": "2026-03-02", "amount": 1890,
        "currency": "EUR", "method": "Visa ending in 4242",
        "manage_url": "https://shop.example/account/subscriptions",
    }  # fmt: skip

    product: Name = Field(description="What renews.")
    renews_on: Day = Field(description="The day.")
    amount: MinorUnits = Field(description="In the currency's smallest unit (cents).")
    currency: Currency = CURRENCY
    manage_url: WebUrl = Field(description="Where it is changed, paused or cancelled.")
    method: Name | None = Field(None, description="The payment method.")
