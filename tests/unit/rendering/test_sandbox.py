"""The limits of the template sandbox."""

from __future__ import annotations

from pathlib import Path

import pytest
from jinja2 import Template
from jinja2.exceptions import SecurityError

from backline.errors import InvalidInput
from backline.rendering.templates import EmailTemplate, create_environment


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "style.css").write_text("", encoding="utf-8")
    return tmp_path


def compiled(folder: Path, source: str) -> Template:
    return create_environment(folder).from_string(source)


@pytest.mark.parametrize(
    "source",
    [
        "{{ name.__class__ }}",
        "{{ name.__class__.__mro__ }}",
        "{{ ''.__class__.__base__.__subclasses__() }}",
        "{{ name['__class__'] }}",
        "{{ name | attr('__class__') }}",
        "{{ '{0.__class__}'.format(name) }}",
        "{{ names.append('x') }}",
        "{{ values.update({'a': 1}) }}",
    ],
)
def test_the_sandbox_holds(folder: Path, source: str) -> None:
    with pytest.raises(SecurityError):
        compiled(folder, source).render(name="Ann", names=["Ann"], values={})


def test_ranges_are_bounded(folder: Path) -> None:
    with pytest.raises(OverflowError):
        compiled(folder, "{% for n in range(10 ** 9) %}{% endfor %}").render()


def test_a_violation_is_an_error_about_the_context(folder: Path) -> None:
    plain = compiled(folder, "x")
    template = EmailTemplate("odd", "en", plain, compiled(folder, "{{ name.__class__ }}"), plain)
    with pytest.raises(InvalidInput, match="template 'odd' \\(en\\) cannot use it") as caught:
        template.render({"name": "Ann"})
    assert caught.value.field == "context"
