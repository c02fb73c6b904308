"""Templates for text messages: one text from a name, a language and a context."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from jinja2 import FileSystemLoader, Template
from jinja2.sandbox import ImmutableSandboxedEnvironment

from backline.channels.sms import segments
from backline.rendering import catalog, flattening
from backline.rendering.environment import ERRORS, constants, environment_over, explained, language_and_locale, run


def render(name: str, language: str | None, context: Mapping[str, Any]) -> str:
    """The text; InvalidInput names template or variable.

    Lines are kept, blanks around them not. What amounts and dates bring along, no-break spaces above all, becomes plain
    if that spares the dearer alphabet.
    """
    template, found = _template(name, language)
    try:
        said = run(template, {**template.environment.globals, **context})
    except ERRORS as exc:
        raise explained(exc, name, found) from exc
    lines = [line.strip() for line in said.strip().splitlines()]
    return segments.plain("\n".join(lines))


@lru_cache(maxsize=1)
def _environment() -> ImmutableSandboxedEnvironment:
    return environment_over(FileSystemLoader(catalog.FOLDER / "sms"))


@lru_cache(maxsize=256)
def _template(name: str, language: str | None) -> tuple[Template, str]:
    found, locale = language_and_locale("sms", name, language)
    return flattening.load(_environment(), f"{found}/{name}/body.txt", constants(found, locale)), found
