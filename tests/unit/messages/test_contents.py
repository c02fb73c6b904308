"""The texts of message types, as people read them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from html import unescape
from typing import Any

import pytest

from backline.channels.base import EmailContent, Message, PushContent
from backline.messages import registry, renderer


@dataclass(frozen=True)
class Case:
    """The expected subject, and texts of both parts."""

    subject: str
    fragments: tuple[str, ...]
    payload: dict[str, Any] | None = None


CASES = {
    "password_reset": Case(
        "Choose a new password for Backline",
        ("http://localhost:8080/reset-password?token=Xk3vQ9-made-up-b7RzL2", "January 31, 2030, 1:00\u00a0PM UTC+1"),
    ),
    "account_verification": Case(
        "Confirm your email address for Backline",
        ("http://localhost:8080/verify-email?token=Xk3vQ9-made-up-b7RzL2", "January 31, 2030"),
    ),
    "security_alert": Case(
        "New sign-in to your account",
        (
            "Lisbon, Portugal",
            "203.0.113.7",
            "March 1, 2026, 7:30\u00a0PM UTC+1",
            "https://shop.example/account/security",
        ),
    ),
    "security_alert_admin": Case(
        "[High] Passwords are being guessed: ann@shop.example",
        ("412 failed sign-ins", "198.51.100.4", "https://shop.example/admin/anomalies/311"),
    ),
    "order_confirmation": Case(
        "Ihre Bestellung 1042 ist bestätigt",
        (
            "Coffee beans, 1 kg",
            "49,00\u00a0€",
            "72,80\u00a0€",
            "1 High Street",
            "5. März 2026",
            "https://shop.example/orders/1042",
        ),
        payload={"language": "de"},
    ),
    "order_status": Case(
        "Your order 1042: in production",
        ("your order is being made right now.", "The blue glaze takes a day longer", "March 5, 2026"),
    ),
    "order_shipped": Case(
        "Your order 1042 is on its way",
        ("Parcel Post", "PP 4711 0815 99", "https://carrier.example/track/4711081599", "Espresso cups, set of 4"),
    ),
    "order_reminder": Case(
        "Your order is waiting for payment (1042)", ("€72.80", "March 8, 2026", "https://shop.example/orders/1042")
    ),
    "payment_receipt": Case(
        "Your receipt: €72.80 for Order 1042",
        ("Visa ending in 4242", "R-2026-0311", "Invoice R-2026-0311.pdf"),
    ),
    "payment_failed": Case(
        "Your payment for Order 1042 did not go through",
        ("The card has expired. Please enter your new one.", "https://shop.example/orders/1042/pay", "March 4, 2026"),
    ),
    "subscription_renewal_reminder": Case(
        "Coffee beans, 1 kg a month renews on March 2, 2026", ("€18.90", "https://shop.example/account/subscriptions")
    ),
    "report_ready": Case(
        "Your report is ready: Sales in February 2026", ("https://shop.example/reports/2026-02", "April 1, 2026")
    ),
    "report_approval_request": Case(
        "Please approve: Sales in February 2026",
        ("Bob asks you to review", "The board meets on Wednesday.", "https://shop.example/reports/2026-02/review"),
    ),
    "report_approved": Case(
        "Approved: Sales in February 2026", ("Ann has approved your report.", "Please keep the chart by region.")
    ),
    "report_rejected": Case(
        "Not approved: Sales in February 2026",
        ("Returns are missing for the last week.", "https://shop.example/reports"),
    ),
    "newsletter": Case(
        "What is new in March",
        ("our espresso cups in a deep blue", "https://shop.example/unsubscribe/q7J2made-up"),
    ),
}

SMS = {
    "sms": "Your order 1042 is ready. You can pick it up until 6 pm.",
    "templated_sms": "We have moved: 1 High Street.\nhttps://shop.example/stores",
    "mfa_code": "402913 is your Backline code. We never ask for it: do not share it with anyone.",
    "order_confirmation": "Backline: thank you, Ann. Your order 1042 over €72.80 is confirmed.\n"
    "Expected delivery: March 5, 2026\nhttps://shop.example/orders/1042",
    "order_shipped": "Backline: your order 1042 is on its way with Parcel Post, expected on March 5, 2026.\n"
    "https://carrier.example/track/4711081599",
}
GERMAN_SMS = {
    "mfa_code": "402913 ist Ihr Code für Backline. Wir fragen nie danach: Geben Sie ihn nicht weiter.",
    "order_confirmation": "Backline: Danke, Ann. Ihre Bestellung 1042 über 72,80 € ist bestätigt.\n"
    "Lieferung voraussichtlich: 5. März 2026\nhttps://shop.example/orders/1042",
}


def render(name: str, channel: str, payload: dict[str, Any] | None = None) -> Any:
    sample = registry.get(name).sample() | (payload or {})
    return renderer(channel)(Message(1, name, "ann@example.com", sample, datetime.now(UTC)))


@pytest.mark.parametrize("name", CASES)
def test_an_email_says_what_it_is_for_in_both_parts(name: str) -> None:
    case = CASES[name]
    content: EmailContent = render(name, "email", case.payload)
    assert content.subject == case.subject
    for fragment in case.fragments:
        assert fragment in (content.text or "")
        assert fragment in unescape(content.html or "")


@pytest.mark.parametrize("name", SMS)
def test_a_text_message(name: str) -> None:
    assert render(name, "sms") == SMS[name]


@pytest.mark.parametrize("name", GERMAN_SMS)
def test_a_text_message_in_german(name: str) -> None:
    assert render(name, "sms", {"language": "de"}) == GERMAN_SMS[name]


def test_a_receipt_has_its_invoice() -> None:
    [file] = render("payment_receipt", "email").attachments
    assert (file.filename, file.content_type, file.content[:5]) == (
        "Invoice R-2026-0311.pdf",
        "application/pdf",
        b"%PDF-",
    )


def test_a_newsletter_can_be_unsubscribed_from_with_one_click() -> None:
    assert render("newsletter", "email").headers == {
        "List-Unsubscribe": "<https://shop.example/unsubscribe/q7J2made-up>",
        "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
    }


def test_a_push_notification() -> None:
    content: PushContent = render("push", "push")
    assert (content.title, content.body) == ("Your order is on its way", "Parcel Post brings it on Thursday.")
    assert (content.data, content.ttl_seconds, content.collapse_key) == ({"order": "1042"}, 86400, "order-1042")
