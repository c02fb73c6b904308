"""Every shipped SMS template."""

from __future__ import annotations

from typing import Any

import pytest

from backline.channels.sms import segments
from backline.errors import InvalidInput
from backline.messages import registry
from backline.messages.templated import TemplatedSms
from backline.rendering import catalog
from backline.rendering.templates import render_sms as render
from testkit import message_docs

KINDS = {
    kind.template_name: kind for kind in registry.all_types() if kind.template_name and issubclass(kind, TemplatedSms)
}
TEMPLATES = [
    pytest.param(name, language, id=f"{language}-{name}")
    for name, languages in catalog.templates("sms").items()
    for language in languages
]


def context(name: str, *without: str) -> dict[str, Any]:
    if name not in KINDS:
        return message_docs.sample_context("sms", name)
    payload = {key: value for key, value in KINDS[name].sample().items() if key not in without}
    return KINDS[name].parse(payload).template_and_context()[1]


def test_every_language_has_every_template() -> None:
    assert {name: found for name, found in catalog.templates("sms").items() if found != ("de", "en")} == {}


@pytest.mark.parametrize(("name", "language"), TEMPLATES)
def test_it_is_short_and_complete(name: str, language: str) -> None:
    text = render(name, language, context(name))
    counted = segments.count_segments(text)
    assert (counted.encoding, counted.parts) == ("GSM-7", 1)
    assert "None" not in text
    assert "\n\n" not in text
    assert text == text.strip()


@pytest.mark.parametrize("name", [name for name in KINDS if "estimated_delivery" in KINDS[name].model_fields])
def test_it_renders_without_optional_fields(name: str) -> None:
    text = render(name, "en", context(name, "estimated_delivery"))
    assert "None" not in text
    assert "elivery" not in text
    assert "\n\n" not in text


def test_each_language_is_translated() -> None:
    for name in KINDS:
        assert render(name, "en", context(name)) != render(name, "de", context(name))


def test_nothing_is_escaped_or_executed() -> None:
    said = {"text": "<b>Ann</b> & {{ 7 * 7 }}"}
    assert render("notice", "en", said) == "<b>Ann</b> & {{ 7 * 7 }}"


def test_a_missing_variable_and_a_bad_link_are_named() -> None:
    with pytest.raises(InvalidInput, match=r"is required by template 'notice' \(en\)") as caught:
        render("notice", "en", {})
    assert caught.value.field == "context.text"
    with pytest.raises(InvalidInput, match="is not allowed as a link"):
        render("notice", "en", {"text": "x", "link": "javascript:alert(1)"})
    with pytest.raises(InvalidInput, match="there is no sms template 'nope'; known templates: mfa_code"):
        render("nope", "en", {})
