"""Every shipped email template, and rules for any template."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from backline.errors import InvalidInput
from backline.rendering import catalog
from backline.rendering.templates import EmailTemplate
from backline.rendering.templates import render_email as render
from tests.unit.rendering.template_checks import (
    TYPES_BY_TEMPLATE,
    check_template,
    check_type,
    load,
    sample_context,
    untranslated,
)

FOLDER = catalog.TEMPLATE_FOLDER / "email"
TEMPLATES = [
    pytest.param(name, language, id=f"{language}-{name}")
    for name, languages in catalog.templates("email").items()
    for language in languages
]


@cache
def shipped(name: str, language: str) -> EmailTemplate:
    return load(FOLDER, name, language)


def required(name: str) -> list[str]:
    """The variables that the template requires."""
    needed = []
    for variable in (context := sample_context(name, "en")):
        try:
            render(name, "en", {key: value for key, value in context.items() if key != variable})
        except InvalidInput as error:
            needed.append(error.field.removeprefix("context."))
    return needed


@pytest.mark.parametrize(("name", "language"), TEMPLATES)
def test_every_template_renders_with_its_sample(name: str, language: str) -> None:
    assert check_template(shipped(name, language), sample_context(name, language)) == []


@pytest.mark.parametrize(("name", "language"), [case for case in TEMPLATES if case.values[0] in TYPES_BY_TEMPLATE])
def test_every_payload_of_its_type_renders_and_is_escaped(name: str, language: str) -> None:
    assert check_type(shipped(name, language), TYPES_BY_TEMPLATE[name]) == []


@pytest.mark.parametrize(("name", "language"), [case for case in TEMPLATES if case.values[1] != "en"])
def test_every_template_is_translated(name: str, language: str) -> None:
    assert untranslated(shipped(name, language), shipped(name, "en")) == []


def test_every_language_has_every_template() -> None:
    assert {name: found for name, found in catalog.templates("email").items() if found != ("de", "en")} == {}


@pytest.mark.parametrize(
    ("name", "variables"),
    [("welcome", ["name", "login_url"]), ("notice", ["heading", "paragraphs"]), ("system_alert", ["title", "summary"])],
)
def test_a_missing_variable_is_named(name: str, variables: list[str]) -> None:
    assert required(name) == variables


def test_the_layout_supports_dark_mode_and_small_screens() -> None:
    html = render("notice", "en", sample_context("notice", "en"))[2]
    assert "@media (prefers-color-scheme: dark)" in html
    assert "@media (max-width: 620px)" in html
    assert 'name="color-scheme" content="light dark"' in html
    assert "max-width: 600px" in html
    assert html.startswith("<!DOCTYPE html>")
    assert '<html lang="en"' in html
    assert '<!--[if mso]><table role="presentation" width="600"' in html


def test_values_are_escaped_in_html_and_raw_in_text() -> None:
    evil = '<script>alert("x")</script>'
    subject, text, html = render("notice", None, {"heading": evil, "paragraphs": [evil]})
    assert subject == evil
    assert text.count(evil) == 2
    assert "<script" not in html
    assert html.count("&lt;script&gt;") == 3


@pytest.mark.parametrize(
    "url", ["javascript:alert(1)", "JavaScript:alert(1)", "data:text/html,x", "/login", " https://x", ""]
)
def test_only_web_and_mail_links_are_allowed(url: str) -> None:
    context = {"heading": "x", "paragraphs": [], "button": {"url": url, "label": "Go"}}
    with pytest.raises(InvalidInput, match="is not allowed as a link; give an http, https or mailto URL"):
        render("notice", None, context)


def test_a_link_cannot_break_out_of_its_attribute() -> None:
    url = 'https://x.example/" onmouseover="alert(1)'
    html = render("notice", None, {"heading": "x", "paragraphs": [], "button": {"url": url, "label": "Go"}})[2]
    assert 'href="https://x.example/&#34; onmouseover=&#34;alert(1)"' in html


def test_the_subject_is_one_line() -> None:
    context = {"heading": "One\r\nBcc: eve@example.com\x0b\x85\u2028 two", "paragraphs": []}
    assert render("notice", None, context)[0] == "One Bcc: eve@example.com two"


def test_data_is_never_executed_as_a_template() -> None:
    _, text, html = render("notice", None, {"heading": "{{ 7 * 7 }}{% raw %}", "paragraphs": "{{ product_name }}"})
    assert "{{ 7 * 7 }}{% raw %}" in text
    assert "{{ product_name }}" in html


@pytest.mark.parametrize("name", sorted(catalog.CONSTANTS))
def test_a_context_cannot_have_a_templates_constants(name: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        render("notice", None, {"heading": "x", "paragraphs": [], name: "eve@example.com"})
    assert caught.value.field == f"context.{name}"


@pytest.mark.parametrize("wrong", [5, True, None])
def test_a_value_of_the_wrong_kind_is_an_error_about_the_context(wrong: object) -> None:
    with pytest.raises(InvalidInput, match=r"template 'notice' \(en\) cannot use it") as caught:
        render("notice", None, {"heading": "x", "paragraphs": wrong})
    assert caught.value.field == "context"


def test_the_language_falls_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for language, name in (("en", "a"), ("en", "b"), ("pt", "a"), ("pt-BR", "a"), ("de", "c")):
        (tmp_path / "email" / language / name).mkdir(parents=True)
    known = catalog.templates("email", tmp_path)
    assert known == {"a": ("en", "pt", "pt-BR"), "b": ("en",), "c": ("de",)}
    monkeypatch.setattr(catalog, "templates", {"email": known}.get)
    wanted = {"pt-BR": "pt-BR", "pt-PT": "pt", "pt": "pt", "fr-FR": "en", "en-GB": "en"}
    assert {asked: catalog.resolve_language("email", "a", asked) for asked in wanted} == wanted
    assert catalog.resolve_language("email", "b", "pt-BR") == "en"
    assert catalog.resolve_language("email", "a", None) == "en"
    with pytest.raises(InvalidInput, match="'c' exists in de, but not in fr"):
        catalog.resolve_language("email", "c", "fr")


@pytest.mark.parametrize("name", ["nope", "../en/notice", "en/notice", "layout.html", "", "notice/../welcome"])
def test_an_unknown_template_lists_the_known_ones(name: str) -> None:
    with pytest.raises(InvalidInput, match=r"known templates: .*, welcome") as caught:
        render(name, None, {})
    assert caught.value.field == "template"


@pytest.mark.parametrize("name", ["", "first-name", "_x", "self", "1", "\u202e", "x" * 5000])
def test_a_variable_that_no_template_can_use_does_no_harm(name: str) -> None:
    context = sample_context("notice", "en")
    assert render("notice", "en", {**context, name: "unused"}) == render("notice", "en", context)
