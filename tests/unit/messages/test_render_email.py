from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from backline.channels.base import EmailContent, Message
from backline.channels.sms import segments
from backline.errors import InvalidInput
from backline.messages import registry, render_email, render_push, render_sms, render_webhook
from backline.rendering.settings import TemplateSettings
from backline.settings import settings


def message(kind: str, payload: dict[str, Any]) -> Message:
    return Message(1, kind, "ann@example.com", payload, datetime.now(UTC))


def test_an_email_is_sent_as_it_is() -> None:
    content = render_email(
        message(
            "email",
            {
                "subject": "{{ 7 * 7 }}",
                "text": "Hi {{ name }}",
                "html": "<p>{{ name }}</p>",
                "cc": ["bob@example.com"],
                "bcc": ["eve@example.com"],
                "reply_to": "desk@example.com",
                "headers": {"X-Order": "1"},
            },
        )
    )
    assert content == EmailContent(
        subject="{{ 7 * 7 }}",
        text="Hi {{ name }}",
        html="<p>{{ name }}</p>",
        cc=("bob@example.com",),
        bcc=("eve@example.com",),
        reply_to="desk@example.com",
        headers={"X-Order": "1"},
    )


def test_welcome_greets_by_name_and_leads_to_the_login() -> None:
    content = render_email(message("welcome", {"name": "Ann", "login_url": "https://shop.example/login?a=1&b=2"}))
    assert content.subject == f"Welcome to {settings().section(TemplateSettings).product_name}, Ann"
    assert content.text is not None
    assert content.html is not None
    assert "Hi Ann," in content.text
    assert "https://shop.example/login?a=1&b=2" in content.text
    assert 'href="https://shop.example/login?a=1&amp;b=2"' in content.html


def test_welcome_without_a_login_leads_to_the_product() -> None:
    content = render_email(message("welcome", {"name": "Ann"}))
    assert f"Sign in here:\n{settings().section(TemplateSettings).product_url}\n" in str(content.text)


def test_a_value_with_html_is_escaped_in_html_and_raw_in_text() -> None:
    content = render_email(message("welcome", {"name": "<b>Ann</b> & {{ 1 }}"}))
    assert "<h1" in str(content.html)
    assert "&lt;b&gt;Ann&lt;/b&gt; &amp; {{ 1 }}" in str(content.html)
    assert "<b>Ann" not in str(content.html)
    assert "Hi <b>Ann</b> & {{ 1 }}," in str(content.text)
    assert content.subject.endswith(", <b>Ann</b> & {{ 1 }}")


def test_a_templated_email_takes_its_context_and_addresses() -> None:
    content = render_email(
        message(
            "templated_email",
            {
                "template": "notice",
                "context": {"heading": "We\nmoved", "paragraphs": ["One.", "Two."]},
                "cc": ["bob@example.com"],
                "reply_to": "desk@example.com",
            },
        )
    )
    assert content.subject == "We moved"
    assert (content.cc, content.reply_to) == (("bob@example.com",), "desk@example.com")
    assert "One.\n\nTwo.\n" in str(content.text)


def test_urgent_email_is_a_system_alert() -> None:
    content = render_email(message("urgent_email", {"context": {"title": "Down", "summary": "db-1 is gone."}}))
    assert content.subject == "[critical] Down"
    assert ">Critical</td>" in str(content.html)


def test_a_missing_variable_is_named_with_its_template() -> None:
    with pytest.raises(InvalidInput, match="is required by template 'notice' \\(en\\); add it") as caught:
        render_email(message("templated_email", {"template": "notice", "context": {"heading": "x"}}))
    assert caught.value.field == "context.paragraphs"


def test_an_unknown_type_and_a_bad_payload_are_refused() -> None:
    with pytest.raises(InvalidInput, match="not a message type"):
        render_email(message("nope", {}))
    with pytest.raises(InvalidInput, match="name: is required"):
        render_email(message("welcome", {}))


def test_every_example_renders() -> None:
    for kind in registry.all_types():
        sample = message(kind.type_name, kind.sample())
        if "email" in kind.channels:
            content = render_email(sample)
            assert content.subject
            assert content.text
        if "sms" in kind.channels:
            assert 0 < segments.count_segments(render_sms(sample)).parts <= 2
        if "push" in kind.channels:
            assert render_push(sample).title
        if "webhook" in kind.channels:
            assert render_webhook(sample).event_type


@pytest.mark.parametrize(
    ("render", "kind"),
    [
        (render_email, "sms"),
        (render_sms, "push"),
        (render_push, "email"),
        (render_webhook, "sms"),
        (render_email, "webhook"),
    ],
)
def test_a_type_is_rendered_for_its_own_channels_alone(render: Callable[[Message], object], kind: str) -> None:
    with pytest.raises(InvalidInput, match=f"{kind} is not sent over"):
        render(message(kind, registry.get(kind).sample()))


@pytest.mark.parametrize("name", ["product_url", "labels", "locale"])
def test_a_context_key_with_the_name_of_a_constant_is_refused(name: str) -> None:
    context = {"heading": "Closed", "paragraphs": ["x"], name: "https://shop.example"}
    with pytest.raises(InvalidInput, match="a name that every template has") as caught:
        render_email(message("templated_email", {"template": "notice", "context": context}))
    assert caught.value.field == f"context.{name}"
