"""What a payload may be, and what the errors say."""

from __future__ import annotations

from typing import Any

import pytest

from backline.errors import InvalidInput
from backline.messages import registry
from backline.messages.base import MessageType
from backline.messages.secrets import check_no_plaintext_secrets

BODY = {"subject": "Hello", "text": "Hi"}


def error_of(name: str, payload: Any) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        registry.get(name).parse(payload)
    return caught.value


@pytest.mark.parametrize("kind", registry.all_types(), ids=lambda kind: kind.type_name)
def test_the_example_of_every_type_is_accepted(kind: type[MessageType]) -> None:
    assert kind.example
    check_no_plaintext_secrets(kind, kind.example)
    kind.parse(kind.sample())


def test_all_fields_of_an_email_are_kept() -> None:
    payload = {
        "subject": "Grüße",
        "text": "Hi",
        "html": "<p>Hi</p>",
        "cc": ["Ann <ann@example.com>"],
        "bcc": ["bob@shop.test"],
        "reply_to": "desk@localhost.localdomain",
        "headers": {"X-Order": "1042"},
    }
    assert registry.get("email").parse(payload).model_dump(mode="json", exclude_none=True) == payload


@pytest.mark.parametrize(
    ("name", "payload", "field", "text"),
    [
        ("email", {"text": "Hi"}, "subject", "is required; add it"),
        ("email", {"subject": "Hello"}, "text", "give text, html or both"),
        ("email", BODY | {"subject": 5}, "subject", "must be a string, not a number"),
        ("email", BODY | {"subject": None}, "subject", "must be a string, not null"),
        ("email", BODY | {"subject": ""}, "subject", "must not be empty"),
        ("email", BODY | {"subject": " \t"}, "subject", "must not be empty"),
        ("email", BODY | {"subject": "x" * 501}, "subject", "at most 500 characters"),
        ("email", BODY | {"subject": "Hello\r\nBcc: eve@example.com"}, "subject", "one line"),
        ("email", BODY | {"subject": "Hello\u2028there"}, "subject", "one line"),
        ("email", BODY | {"cc": "ann@example.com"}, "cc", "must be a list, not a string"),
        ("email", BODY | {"cc": ["ann@example.com", "nobody"]}, "cc[1]", "nobody"),
        ("email", BODY | {"cc": ["ann@example.com"] * 51}, "cc", "at most 50"),
        ("email", BODY | {"reply_to": "a@b@c.example"}, "reply_to", "a@b@c.example"),
        ("email", BODY | {"reply_to": "ann@example.com\nBcc: eve@example.com"}, "reply_to", "line breaks"),
        ("email", BODY | {"headers": {"Bcc": "eve@example.com"}}, "headers", "'Bcc' is written by Backline"),
        ("email", BODY | {"headers": {"content-type": "text/x"}}, "headers", "content-type"),
        ("email", BODY | {"headers": {"X Y": "1"}}, "headers", "cannot be a header's name"),
        ("email", BODY | {"headers": {"X-A:": "1"}}, "headers", "cannot be a header's name"),
        ("email", BODY | {"headers": {"X-A": "1\nBcc: eve@example.com"}}, "headers", "one line"),
        ("email", BODY | {"headers": {"X-A": 1}}, "headers.X-A", "must be a string, not a number"),
        ("email", BODY | {"text": "a\0b"}, "text", "NUL"),
        ("email", BODY | {"boddy": "x"}, "boddy", "is not a field of email; known fields: subject, text, html, cc"),
        ("email", BODY | {"to": "ann@example.com"}, "to", "is not a field of email"),
        ("email", [1], "payload", "must be an object"),
        ("email", BODY | {"text": object()}, "payload", "JSON"),
        ("templated_email", {"template": "nope"}, "template", "known templates: "),
        ("templated_email", {"template": "../en/notice"}, "template", "there is no email template '../en/notice'"),
        ("templated_email", {"template": "notice", "context": []}, "context", "must be an object, not a list"),
        ("templated_email", {"template": "notice", "context": {"a": {"b": "\0"}}}, "context.a.b", "NUL"),
        ("templated_email", {"template": "notice", "language": "english"}, "language", "at most 6"),
        ("templated_email", {"template": "notice", "language": "../en"}, "language", 'must look like "en"'),
        ("welcome", {"name": "Ann", "login_url": "javascript:alert(1)"}, "login_url", "https://shop.example/login"),
        ("welcome", {"name": "Ann", "login_url": "//shop.example"}, "login_url", "absolute http or https URL"),
        ("welcome", {"name": "Ann", "login_url": "https://"}, "login_url", "absolute http or https URL"),
        ("welcome", {"name": "Ann", "login_url": "https://[x"}, "login_url", "absolute http or https URL"),
        ("order_confirmation", {"currency": "EURO"}, "currency", "at most 3"),
        ("order_confirmation", {"currency": "ZZZ"}, "currency", "ISO 4217"),
        ("order_confirmation", {"total": 72.8}, "total", "whole number"),
        ("order_confirmation", {"total": -1}, "total", "greater than or equal to 0"),
        ("order_confirmation", {"placed_at": "2026-03-01"}, "placed_at", "needs a time zone"),
        ("order_confirmation", {"placed_at": 1772389800}, "placed_at", "2030-01-31T12:00:00Z"),
        ("order_confirmation", {"estimated_delivery": "20260305"}, "estimated_delivery", "2030-01-31"),
        ("order_confirmation", {"zone": "Europe"}, "zone", "Europe/Berlin"),
        ("order_confirmation", {"zone": "../etc/passwd"}, "zone", "Europe/Berlin"),
        ("order_confirmation", {"lines": []}, "lines", "too few"),
        ("order_confirmation", {"lines": [{"description": "x"}]}, "lines[0].unit_price", "is required"),
        ("order_confirmation", {"delivery_address": ["a\nb"]}, "delivery_address[0]", "one line"),
        ("order_reminder", {"currency": None}, "currency", "is required with an amount"),
        ("order_shipped", {"tracking_url": "http://carrier.example/1"}, "tracking_url", "must be an https URL"),
        ("payment_failed", {"reason": "no"}, "reason", "card_declined"),
        ("payment_receipt", {"invoice": {"path": "a.csv"}}, "invoice.path", "must be a PDF"),
        ("report_ready", {"report_url": None}, "report_url", "give report_url, file or both"),
        ("report_rejected", {"reason": " \n"}, "reason", "must not be empty"),
        ("report_rejected", {"reason": "a\x1bb"}, "reason", "control characters"),
        ("newsletter", {"unsubscribe_url": "http://shop.example/leave"}, "unsubscribe_url", "must be an https URL"),
        ("email", BODY | {"topic": "gossip"}, "topic", "known topics (preferences.topics): newsletter"),
        ("newsletter", {"unsubscribe_url": "https://shop.example/ü"}, "unsubscribe_url", "ASCII"),
        (
            "newsletter",
            {"articles": [{"title": "x", "text": "x", "image_url": "https://shop.example/x.png"}]},
            "articles[0].image_alt",
            "is required with image_url",
        ),
        ("password_reset", {"token": "a b c d e f"}, "token", "is not acceptable"),
        ("password_reset", {"valid_until": "2030-01-31T12:00:00"}, "valid_until", "needs a time zone"),
    ],
)
def test_bad_input_names_field_and_fix(name: str, payload: Any, field: str, text: str) -> None:
    if name not in {"email", "templated_email", "welcome"}:
        payload = {**registry.get(name).sample(), **payload}
    error = error_of(name, payload)
    assert error.field == field
    assert text in str(error)
    assert str(error).startswith(f"{field}: ")


def test_every_problem_is_listed_and_the_first_is_the_field() -> None:
    error = error_of("email", {"subject": 5, "reply_to": "nobody", "zzz": 1})
    assert error.field == "subject"
    assert "; also reply_to: " in str(error)
    assert "; also zzz: " in str(error)


def test_a_backslash_before_u0000_is_not_a_nul() -> None:
    assert registry.get("email").parse(BODY | {"text": r"a\u0000b"})


def test_a_payload_is_not_changed_after_it_is_checked() -> None:
    parsed = registry.get("welcome").parse({"name": "Ann"})
    with pytest.raises(ValueError, match="frozen"):
        parsed.name = "Bob"  # type: ignore[attr-defined]


def test_urgent_email_has_a_template_and_a_lane_of_its_own() -> None:
    kind = registry.get("urgent_email")
    assert kind.parse({}).template == "system_alert"  # type: ignore[attr-defined]
    assert kind.lane_for("email") == "email.urgent"
    assert registry.get("templated_email").lane_for("email") == "email.normal"
