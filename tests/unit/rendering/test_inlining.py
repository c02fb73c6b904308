from __future__ import annotations

import pytest
from jinja2 import DictLoader
from jinja2.sandbox import SandboxedEnvironment

from template_css import inline_css

CSS = ".a { color: red; } p { margin: 0; } td { padding: 1px; }"


def test_rules_go_into_the_tags_of_a_fragment() -> None:
    # In CSS's own order: the more specific rule last.
    assert inline_css('<p class="a">Hi</p>', CSS) == '<p class="a" style="margin: 0;color: red;">Hi</p>'


def test_jinja_tags_stay_as_they_are() -> None:
    source = (
        '{% extends "layout.html" %}{% from "c.html" import b %}\n{% block content %}\n'
        '<p>{{ a > b and "<i>" }}</p><a href="{{ url | link }}" {% if x %}rel="me"{% endif %}>{{- n }}</a>\n'
        "<!--[if mso]>{{ y }}{% if z %}<table>{% endif %}<![endif]-->\n"
        "{% if a < b %}<p>x</p>{% endif %}{# a note #}\n{% endblock %}"
    )
    inlined = inline_css(source, CSS)
    for tag in (
        '{% extends "layout.html" %}{% from "c.html" import b %}',
        '<p style="margin: 0;">{{ a > b and "<i>" }}</p>',
        'href="{{ url | link }}"',
        "{{- n }}",
        "<!--[if mso]>{{ y }}{% if z %}<table>{% endif %}<![endif]-->",
        '{% if a < b %}<p style="margin: 0;">x</p>{% endif %}',
    ):
        assert tag in inlined
    assert "a note" not in inlined


def test_rows_may_be_in_a_loop() -> None:
    source = "<table><tbody>{% for row in rows %}<tr><td>{{ row }}</td></tr>{% endfor %}</tbody></table>"
    inlined = inline_css(source, CSS)
    environment = SandboxedEnvironment(loader=DictLoader({"x": inlined}))
    assert environment.get_template("x").render(rows=[1, 2]).count('<tr><td style="padding: 1px;">') == 2


def test_a_document_keeps_its_media_queries_and_doctype() -> None:
    source = "{% set a = 1 %}<!DOCTYPE html><html><head><style>@media x { .a { color: blue } }</style></head><body><p>{{ a }}</p></body></html>"
    inlined = inline_css(source, CSS)
    assert inlined.startswith("{% set a = 1 %}<!DOCTYPE html>")
    assert "<style>@media x { .a { color: blue } }</style>" in inlined
    assert '<p style="margin: 0;">{{ a }}</p>' in inlined


@pytest.mark.parametrize(
    ("source", "near"),
    [
        ("<table><tbody>{{ rows }}<tr><td>x</td></tr></tbody></table>", "<table>"),
        ("<table>{% for row in rows %}<tr><td>x</td></tr>{% endfor %}</table>", "<tr>"),
        ("<p>{{ a }}</p><tr><td>{{ b }}</td></tr>", "<tr>"),
        ("<html><head>{{ a }}</head><body><p>{{ b }}</p></body></html>", "{{ a }}"),
    ],
)
def test_content_that_html_would_move_or_remove_is_an_error(source: str, near: str) -> None:
    with pytest.raises(ValueError, match="an HTML parser would move") as caught:
        inline_css(source, CSS)
    problem = f"an HTML parser would move or remove content at or shortly after {near};"
    assert problem in str(caught.value)
