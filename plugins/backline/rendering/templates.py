"""Renders the templates of email and SMS in a sandbox: templates are trusted, their context is not."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import FileSystemLoader, StrictUndefined, Template, TemplateError, TemplateNotFound, select_autoescape
from jinja2.exceptions import UndefinedError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from backline.channels.sms import segments
from backline.errors import InvalidInput, Misconfigured
from backline.rendering import catalog, flattening, formats
from backline.rendering.settings import TemplateSettings
from backline.settings import settings

LINK_SCHEMES = ("http://", "https://", "mailto:")
RENDER_ERRORS = (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError)
"""Errors of rendering besides InvalidInput. Only data can cause them: every template renders with its sample."""


@dataclass(frozen=True, slots=True)
class EmailTemplate:
    """One email template in one language, compiled."""

    name: str
    language: str
    subject: Template
    text: Template
    html: Template

    def render(self, context: Mapping[str, object]) -> tuple[str, str, str]:
        """Subject (one line), text and HTML; InvalidInput names a variable that is missing or not usable."""
        values = _values(self.text, context)
        try:
            # Layouts use the subject as the HTML document's title.
            subject = values["subject"] = " ".join(_render(self.subject, values).split())
            return subject, _render(self.text, values), _render(self.html, values)
        except RENDER_ERRORS as exc:
            raise _to_invalid_input(exc, self.name, self.language) from exc


def render_email(name: str, language: str | None, context: Mapping[str, object]) -> tuple[str, str, str]:
    """Subject, text and HTML of an email template; InvalidInput names the template or variable that is wrong."""
    return _email_template(name, language).render(context)


def render_sms(name: str, language: str | None, context: Mapping[str, object]) -> str:
    """The text of an SMS template; InvalidInput names the template or variable that is wrong.

    White space around lines is removed. Special characters, such as the no-break spaces of amounts and dates, are replaced
    if the text then fits the GSM 7-bit alphabet, which needs fewer segments.
    """
    template, found = _sms_template(name, language)
    try:
        text = _render(template, _values(template, context))
    except RENDER_ERRORS as exc:
        raise _to_invalid_input(exc, name, found) from exc
    return segments.replace_lookalikes("\n".join(line.strip() for line in text.strip().splitlines()))


@lru_cache(maxsize=256)
def _email_template(name: str, language: str | None) -> EmailTemplate:
    return compile_email(_environment("email"), name, *_language_and_locale("email", name, language))


@lru_cache(maxsize=256)
def _sms_template(name: str, language: str | None) -> tuple[Template, str]:
    found, locale = _language_and_locale("sms", name, language)
    return _compile(_environment("sms"), name, found, locale, ("body.txt",))[0], found


def compile_email(source: ImmutableSandboxedEnvironment, name: str, language: str, locale: str) -> EmailTemplate:
    """Compile an email template in a language that has it; amounts and dates are formatted for `locale`."""
    files = ("subject.txt", "body.txt", "body.html")
    return EmailTemplate(name, language, *_compile(source, name, language, locale, files))


def _compile(
    source: ImmutableSandboxedEnvironment, name: str, language: str, locale: str, files: tuple[str, ...]
) -> list[Template]:
    """The files of a template. Constants in them cannot be overridden by a context; `labels` are those of labels.toml."""
    config = settings().section(TemplateSettings)
    constants: dict[str, object] = {
        "product_name": config.product_name, "product_url": config.product_url, "support_email": config.support_email,
        "language": language, "locale": locale,
    }  # fmt: skip
    if labels := _load_labels(source, f"{language}/{name}/labels.toml"):
        constants["labels"] = labels
    return [flattening.load_flattened(source, f"{language}/{name}/{file}", constants) for file in files]


def _load_labels(source: ImmutableSandboxedEnvironment, path: str) -> dict[str, Any]:
    assert source.loader is not None  # noqa: S101 - every environment here has one
    try:
        return tomllib.loads(source.loader.get_source(source, path)[0])
    except TemplateNotFound:
        return {}
    except tomllib.TOMLDecodeError as exc:
        raise Misconfigured(f"template file {path}: not valid TOML: {exc}") from None


def _language_and_locale(channel: str, name: str, language: str | None) -> tuple[str, str]:
    found = catalog.resolve_language(channel, name, language)
    # Amounts and dates follow the requested region if the template is in its language.
    return found, language if language and language.split("-")[0] == found.split("-")[0] else found


def _values(template: Template, context: Mapping[str, object]) -> dict[str, Any]:
    if taken := catalog.CONSTANTS & context.keys():
        raise InvalidInput(f"context.{min(taken)}", "is a name that every template has; give it another name")
    return {**template.environment.globals, **context}


def _render(template: Template, values: dict[str, Any]) -> str:
    # As Template.render, but without its copy of all globals, which takes a third of the time.
    context = template.environment.context_class(template.environment, values, template.name, template.blocks)
    return "".join(template.root_render_func(context))


def _to_invalid_input(exc: Exception, name: str, language: str) -> InvalidInput:
    if isinstance(exc, UndefinedError):
        return InvalidInput(f"context.{exc}", f"is required by template {name!r} ({language}); add it")
    return InvalidInput("context", f"template {name!r} ({language}) cannot use it: {exc}")


# --- the sandbox


def create_environment(folder: Path) -> ImmutableSandboxedEnvironment:
    """A sandboxed environment over a folder of templates. Those that end in .html escape values, and inline its style.css."""
    loader = FileSystemLoader(folder)
    if (folder / "style.css").exists():
        from template_css import InliningLoader  # slow to import, and not needed for SMS

        loader = InliningLoader(folder)
    environment = _Environment(
        loader=loader,
        autoescape=select_autoescape(enabled_extensions=("html",), default=False),
        undefined=_Undefined,
        auto_reload=False,
        cache_size=-1,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "link": _safe_link,
        **{name: getattr(formats, name) for name in ("money", "day", "timestamp")},
    }
    return environment


@lru_cache(maxsize=2)
def _environment(channel: str) -> ImmutableSandboxedEnvironment:
    return create_environment(catalog.TEMPLATE_FOLDER / channel)


class _Environment(ImmutableSandboxedEnvironment):
    """A sandbox in which `order.items` is the data's key, not the method of dict."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        """As Jinja's, but a dict's keys come first."""
        if type(obj) is dict and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)


class _Undefined(StrictUndefined):
    """An undefined variable whose use raises UndefinedError with only its name."""

    __slots__ = ()

    @property
    def _undefined_message(self) -> str:
        # The sandbox has an exception of its own for forbidden access.
        is_missing = self._undefined_exception is UndefinedError
        return str(self._undefined_name) if is_missing else super()._undefined_message


def _safe_link(url: object) -> str:
    """Filter for values of href: allows http, https and mailto, not javascript: or data:."""
    text = str(url)
    if not text.lower().startswith(LINK_SCHEMES):
        raise InvalidInput("context", f"{text[:80]!r} is not allowed as a link; give an http, https or mailto URL")
    return text
