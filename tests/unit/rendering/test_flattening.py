"""A flattened template renders as with Jinja's own inheritance."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from jinja2 import DictLoader, Environment, StrictUndefined, UndefinedError

from backline.errors import Misconfigured
from backline.rendering import flattening
from backline.rendering.templates import create_environment

FILES = {
    "base.html": "<{{ brand }}>{% block a %}base a{% endblock %}|{% block b %}base b{% block c %}base c{% endblock %}{% endblock %}</>",
    "middle.html": "{% extends 'base.html' %}{% block a %}middle {{ brand }}{% endblock %}{% block c %}mid {{ x }}{% endblock %}",
    "leaf.html": "{% extends 'middle.html' %}{% from 'parts.html' import twice %}{% set y = x + 1 %}"
    "{% block a %}{% set z = y * 2 %}leaf {{ z }}{{ twice('<') }}{% for n in [1, 2] %}{{ n }}{{ brand }}{% endfor %}{% endblock %}",
    "parts.html": "{% macro twice(text) %}{{ text }}{{ text }}{% endmacro %}",
    "plain.txt": "{{ brand }} & {{ x }}",
    "own.html": "{% set brand = 'mine' %}{{ brand }}",
    "super.html": "{% extends 'base.html' %}{% block a %}{{ super() }}{% endblock %}",
    "dynamic.html": "{% extends x %}",
    "missing.html": "{% extends 'base.html' %}{% block a %}{{ nowhere }}{% endblock %}",
}


@pytest.fixture
def environment() -> Environment:
    return Environment(
        loader=DictLoader(FILES),
        autoescape=lambda name: str(name).endswith(".html"),
        undefined=StrictUndefined,
    )


@pytest.mark.parametrize("name", ["base.html", "middle.html", "leaf.html", "plain.txt", "own.html"])
def test_a_flattened_template_renders_as_with_inheritance(environment: Environment, name: str) -> None:
    values: dict[str, Any] = {"x": 3}
    constants = {"brand": "A & <B>"}
    wanted = environment.get_template(name).render(**values, **constants)
    assert flattening.load_flattened(environment, name, constants).render(**values) == wanted


def test_a_constant_is_not_overridden_by_the_context(environment: Environment) -> None:
    assert flattening.load_flattened(environment, "plain.txt", {"brand": "A"}).render(x=1, brand="B") == "A & 1"


def test_an_undefined_variable_is_still_an_error(environment: Environment) -> None:
    with pytest.raises(UndefinedError, match="nowhere"):
        flattening.load_flattened(environment, "missing.html", {"brand": "A"}).render()


@pytest.mark.parametrize(("name", "says"), [("super.html", "super is not available"), ("dynamic.html", "quoted name")])
def test_a_template_that_cannot_be_flattened_is_refused(environment: Environment, name: str, says: str) -> None:
    with pytest.raises(Misconfigured, match=says):
        flattening.load_flattened(environment, name, {})


def test_a_template_that_cannot_be_inlined_is_named(tmp_path: Path) -> None:
    (tmp_path / "style.css").write_text("p { margin: 0 }", encoding="utf-8")
    (tmp_path / "broken.html").write_text("<table>{{ x }}<tr><td></td></tr></table>", encoding="utf-8")
    with pytest.raises(Misconfigured, match=r"template broken\.html: an HTML parser would move"):
        flattening.load_flattened(create_environment(tmp_path), "broken.html", {})
