"""Renders SMS templates: one text from a name, a language and a context."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from jinja2 import FileSystemLoader, Template
from jinja2.sandbox import ImmutableSandboxedEnvironment

from backline.channels.sms import segments
from backline.rendering import catalog, flattening
from backline.rendering.environment import (
    RENDER_ERRORS,
    create_environment,
    render_template,
    resolve_language_and_locale,
    template_constants,
    to_invalid_input,
)


def render(name: str, language: str | None, context: Mapping[str, Any]) -> str:
    """The text; InvalidInput names the template or variable that is wrong.

    White space around lines is removed. Special characters, such as the no-break spaces of amounts and dates, are replaced
    if the text then fits the GSM 7-bit alphabet, which needs fewer segments.
    """
    template, found = _template(name, language)
    try:
        text = render_template(template, {**template.environment.globals, **context})
    except RENDER_ERRORS as exc:
        raise to_invalid_input(exc, name, found) from exc
    lines = [line.strip() for line in text.strip().splitlines()]
    return segments.replace_lookalikes("\n".join(lines))


@lru_cache(maxsize=1)
def _environment() -> ImmutableSandboxedEnvironment:
    return create_environment(FileSystemLoader(catalog.TEMPLATE_FOLDER / "sms"))


@lru_cache(maxsize=256)
def _template(name: str, language: str | None) -> tuple[Template, str]:
    found, locale = resolve_language_and_locale("sms", name, language)
    return flattening.load_flattened(
        _environment(), f"{found}/{name}/body.txt", template_constants(found, locale)
    ), found
