"""Renders email templates: subject, text and HTML from a name, a language and a context, which is escaped in HTML."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Template, TemplateNotFound
from jinja2.sandbox import ImmutableSandboxedEnvironment

from backline.errors import Misconfigured
from backline.rendering import catalog, flattening
from backline.rendering.environment import (
    RENDER_ERRORS,
    create_environment,
    render_template,
    resolve_language_and_locale,
    template_constants,
    to_invalid_input,
)
from backline.rendering.inlining import InliningLoader


def create_email_environment(folder: Path) -> ImmutableSandboxedEnvironment:
    """A sandboxed environment over a folder of email templates."""
    return create_environment(InliningLoader(folder))


@dataclass(frozen=True, slots=True)
class EmailTemplate:
    """One template in one language, compiled."""

    name: str
    language: str
    subject: Template
    text: Template
    html: Template
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """Jinja's own globals; a context may override them."""

    def render(self, context: Mapping[str, Any]) -> tuple[str, str, str]:
        """Subject (one line), text and HTML; InvalidInput names a variable that is missing or not usable."""
        values = {**self.defaults, **context}
        try:
            # Layouts use the subject as the HTML document's title.
            subject = values["subject"] = " ".join(render_template(self.subject, values).split())
            return subject, render_template(self.text, values), render_template(self.html, values)
        except RENDER_ERRORS as exc:
            raise to_invalid_input(exc, self.name, self.language) from exc


def render(name: str, language: str | None, context: Mapping[str, Any]) -> tuple[str, str, str]:
    """Subject, text and HTML of an email template; InvalidInput names the template or variable that is wrong."""
    return _template(name, language).render(context)


@lru_cache(maxsize=1)
def _environment() -> ImmutableSandboxedEnvironment:
    return create_email_environment(catalog.TEMPLATE_FOLDER / "email")


@lru_cache(maxsize=256)
def _template(name: str, language: str | None) -> EmailTemplate:
    found, locale = resolve_language_and_locale("email", name, language)
    return compile_template(_environment(), name, found, locale)


def compile_template(source: ImmutableSandboxedEnvironment, name: str, language: str, locale: str) -> EmailTemplate:
    """Compile a template in a language that has it; amounts and dates are formatted for `locale`.

    The tables of the template's `labels.toml`, if it has one, are available in it as `labels`.
    """
    constants: dict[str, object] = {**template_constants(language, locale)}
    if labels := _load_labels(source, f"{language}/{name}/labels.toml"):
        constants["labels"] = labels

    def load(file: str) -> Template:
        return flattening.load_flattened(source, f"{language}/{name}/{file}", constants)

    return EmailTemplate(name, language, load("subject.txt"), load("body.txt"), load("body.html"), dict(source.globals))


def _load_labels(source: ImmutableSandboxedEnvironment, path: str) -> dict[str, Any]:
    assert source.loader is not None  # noqa: S101 - every environment here has one
    try:
        text, _, _ = source.loader.get_source(source, path)
        return tomllib.loads(text)
    except TemplateNotFound:
        return {}
    except tomllib.TOMLDecodeError as exc:
        raise Misconfigured(f"template file {path}: not valid TOML: {exc}") from None
