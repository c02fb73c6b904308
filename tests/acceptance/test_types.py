"""Each message type with its own texts, by SQL on the real stack; each case's id is the type."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from backline.encryption import Encryptor
from backline.messages import registry
from backline.messages.recipients import serialize
from backline.messages.secrets import encrypt_secrets
from demo.check import wait_until
from testkit.sandbox_clients import ReceivedEmail
from tests.acceptance.isolated_stack import IsolatedStack

pytestmark = pytest.mark.stack


@dataclass(frozen=True)
class Case:
    """The expected subject, texts of both parts, and parts of the raw message."""

    subject: str
    fragments: tuple[str, ...]
    payload: dict[str, Any] | None = None
    raw: tuple[str, ...] = ()


gateway_messages: dict[str, list[dict[str, Any]]] = {}
"""The received SMS and push messages, by type."""

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
        raw=('Content-Disposition: attachment;\r\n filename="Invoice R-2026-0311.pdf"', "JVBERi0xLjQK"),
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
        raw=(
            "List-Unsubscribe: <https://shop.example/unsubscribe/q7J2made-up>\r\n",
            "List-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n",
        ),
    ),
}


@dataclass(frozen=True)
class ExpectedText:
    """What must arrive by SMS or push: the whole text, the title, and what else the gateway got."""

    channel: str
    text: str
    title: str = ""
    payload: dict[str, Any] | None = None
    details: dict[str, Any] | None = None


EXPECTED_TEXTS = {
    "sms": ExpectedText("sms", "Your order 1042 is ready. You can pick it up until 6 pm.", details={"segments": 1}),
    "templated_sms": ExpectedText("sms", "We have moved: 1 High Street.\nhttps://shop.example/stores"),
    "mfa_code": ExpectedText(
        "sms",
        "402913 ist Ihr Code für Backline. Wir fragen nie danach: Geben Sie ihn nicht weiter.",
        payload={"language": "de"},
    ),
    "order_confirmation": ExpectedText(
        "sms",
        "Backline: Danke, Ann. Ihre Bestellung 1042 über 72,80 € ist bestätigt.\n"
        "Lieferung voraussichtlich: 5. März 2026\nhttps://shop.example/orders/1042",
    ),
    "order_shipped": ExpectedText(
        "sms",
        "Backline: your order 1042 is on its way with Parcel Post, expected on March 5, 2026.\n"
        "https://carrier.example/track/4711081599",
        details={"form": {"From": "Backline"}},
    ),
    "push": ExpectedText(
        "push",
        "Parcel Post brings it on Thursday.",
        title="Your order is on its way",
        details={"message.data": {"order": "1042"}, "message.android": {"ttl": "86400s", "collapse_key": "order-1042"}},
    ),
}


@pytest.fixture(scope="module")
def arrived(stack: IsolatedStack) -> dict[str, tuple[ReceivedEmail, str]]:
    """Every type's email, all enqueued in one transaction: parsed and raw."""
    found = {}
    with stack.context() as context:
        context.mail.set_faults()
        encrypt = Encryptor([context.stack.secrets.backline_fernet_keys]).encrypt
        with context.transaction():
            for name, case in CASES.items():
                kind = registry.get(name)
                payload = encrypt_secrets(kind, {**kind.sample(), **(case.payload or {})}, encrypt)
                to = {channel: context.recipients(name)[channel] for channel in kind.channels}
                context.enqueue(name, serialize(kind.channels, to), payload)
            for name, expected in EXPECTED_TEXTS.items():
                if name not in CASES:
                    kind = registry.get(name)
                    payload = encrypt_secrets(kind, {**kind.sample(), **(expected.payload or {})}, encrypt)
                    context.enqueue(name, context.recipients(name)[expected.channel], payload)
        for arrival in context.wait_for_emails(context.domain("types"), len(CASES)):
            name = arrival.recipients[0].partition("@")[0]
            assert name not in found, f"{name} arrived twice"
            found[name] = (context.mail.get_email(arrival.id), raw(stack, arrival.id))
        for name, expected in EXPECTED_TEXTS.items():
            recipient, channel = context.recipients(name)[expected.channel], expected.channel
            gateway_messages[name] = wait_until(
                lambda channel=channel, recipient=recipient: context.gateways.received(channel, recipient), name
            )
    return found


def raw(stack: IsolatedStack, arrival: int) -> str:
    """The caught file in the Maildir."""
    (path,) = (stack.home / "mail" / "new").glob(f"{arrival // 1_000_000}.M{arrival % 1_000_000:06}P*")
    return path.read_bytes().decode()


@pytest.mark.parametrize("name", CASES)
def test_type(name: str, arrived: dict[str, tuple[ReceivedEmail, str]]) -> None:
    email, source = arrived[name]
    case = CASES[name]
    assert email.recipients[0].startswith(f"{name}@types.")
    assert email.subject == case.subject
    for fragment in case.fragments:
        assert fragment in email.text
        assert fragment in email.html
    for fragment in case.raw:
        assert fragment in source.replace("\r\n", "\n").replace("\n", "\r\n")


@pytest.mark.usefixtures("arrived")
@pytest.mark.parametrize("name", EXPECTED_TEXTS)
def test_by_sms_or_push(name: str) -> None:
    expected = EXPECTED_TEXTS[name]
    [message] = gateway_messages[name]
    assert (message["title"], message["text"]) == (expected.title, expected.text)
    for path, value in (expected.details or {}).items():
        found: Any = message
        for part in path.split("."):
            found = found[part]
        assert found == value


def test_every_type_has_a_case() -> None:
    tested_elsewhere = {"email", "templated_email", "urgent_email", "webhook", "welcome"}
    assert {kind.type_name for kind in registry.all_types()} == {*CASES, *EXPECTED_TEXTS, *tested_elsewhere}
    assert {name for name in EXPECTED_TEXTS if name in CASES} == {
        kind.type_name for kind in registry.all_types() if {"email", "sms"} <= set(kind.channels)
    }
