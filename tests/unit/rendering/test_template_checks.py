"""The checks of shipped templates find each fault."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from jinja2 import TemplateNotFound

from backline.rendering import catalog
from tests.unit.rendering.template_checks import (
    TYPES_BY_TEMPLATE,
    check_template,
    check_type,
    load,
    sample_context,
    untranslated,
)

NAME = "order_status"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(catalog.TEMPLATE_FOLDER / "email", tmp_path / "email"))


def change(folder: Path, file: str, old: str, new: str, language: str = "de") -> None:
    path = folder / language / NAME / file
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def all_problems(folder: Path) -> str:
    template = load(folder, NAME, "de")
    return "\n".join(
        [*check_template(template, sample_context(NAME, "de")), *check_type(template, TYPES_BY_TEMPLATE[NAME])]
    )


def test_the_unchanged_copy_has_no_problems(folder: Path) -> None:
    assert all_problems(folder) == ""
    assert untranslated(load(folder, NAME, "de"), load(folder, NAME, "en")) == []


@pytest.mark.parametrize(
    ("file", "old", "new", "says"),
    [
        (
            "body.txt",
            "{{ name }}",
            "{{ first_name }}",
            "context.first_name: is required by template 'order_status' (de)",
        ),
        ("body.html", "{{ name }}", "{{ nmae }}", "context.nmae: is required"),
        ("subject.txt", "{{ order }}", "{{ ordr }}", "context.ordr: is required"),
        ("labels.toml", 'cancelled = "Storniert"\n', "", "status=cancelled: InvalidInput: context.cancelled"),
        ("body.html", "{{ name }}", "{{ name | safe }}", "name comes out unescaped"),
        ("body.html", "{{ quote(note) }}", "{{ note | safe }}", "note comes out unescaped"),
        ("body.html", "{% block preheader %}{{ labels.explanation[status] }}", "{% block preheader %}", "no preheader"),
        ("body.html", "<h1>", '<img src="https://shop.example/x.png"><h1>', "an image without alt"),
        ("body.html", "<h1>", "<b><h1>", "tags do not match"),
        (
            "body.html",
            "<h1>",
            '<table><tbody><tr><td class="quote">x</td></tr></tbody></table><h1>',
            "read out as data",
        ),
        ("body.txt", "{{ order_url | link }}", "{{ order_url | link }} {{ none }}", "the text part holds 'None'"),
    ],
)
def test_a_fault_is_found(folder: Path, file: str, old: str, new: str, says: str) -> None:
    change(folder, file, old, new)
    assert says in all_problems(folder)


def test_a_missing_text_part_is_found(folder: Path) -> None:
    (folder / "de" / NAME / "body.txt").write_text('{% extends "de/layout.txt" %}{% block content %}{% endblock %}')
    assert "no text part" in all_problems(folder)
    (folder / "de" / NAME / "body.txt").unlink()
    with pytest.raises(TemplateNotFound, match=r"body\.txt"):
        load(folder, NAME, "de")


@pytest.mark.parametrize(
    ("file", "german", "english"),
    [
        ("body.txt", "Meine Bestellung ansehen", "View my order"),
        ("body.html", "Meine Bestellung ansehen", "View my order"),
        ("labels.toml", "wir arbeiten gerade an Ihrer Bestellung.", "your order is being made right now."),
    ],
)
def test_an_untranslated_line_is_found(folder: Path, file: str, german: str, english: str) -> None:
    change(folder, file, german, english)
    assert [line for line in untranslated(load(folder, NAME, "de"), load(folder, NAME, "en")) if english in line]
