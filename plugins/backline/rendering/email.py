"""Email templates: subject, text and HTML from a name, a language and a context.

The templates are ours, the context is data: it comes out escaped in HTML and as it is in text, and
nothing in it is ever run as a template.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError, select_autoescape
from jinja2.exceptions import UndefinedError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import missing

from backline.errors import InvalidInput
from backline.rendering import catalog, flattening, formats
from backline.rendering.inlining import InliningLoader
from backline.settings import settings

LINKS = ("http://", "https://", "mailto:")


class _MissingVariableError(UndefinedError):
    def __init__(self, variable: str) -> None:
        super().__init__(variable)
        self.variable = variable


class _Undefined(StrictUndefined):
    """An undefined variable that says its name when it is used."""

    __slots__ = ()

    def __init__(
        self,
        hint: str | None = None,
        obj: Any = missing,
        name: str | None = None,
        exc: type[Exception] = UndefinedError,
    ) -> None:
        # The sandbox passes an exception of its own, for what a template must not touch.
        said = partial(_missing_variable, name) if exc is UndefinedError else exc
        super().__init__(hint, obj, name, said)  # type: ignore[arg-type]


def _missing_variable(name: str | None, _hint: str) -> Exception:
    return _MissingVariableError(str(name))


def _link(url: object) -> str:
    """A filter for what goes into href: only the web and mail, never javascript: or data:."""
    text = str(url)
    if not text.lower().startswith(LINKS):
        raise InvalidInput("context", f"{text[:80]!r} cannot be linked to; give an http, https or mailto URL")
    return text


class _Environment(ImmutableSandboxedEnvironment):
    """A sandbox in which `order.items` means the data's field, not the method that every dict has."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        """As Jinja's, but a key of the data comes first."""
        if type(obj) is dict and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)


def environment(folder: Path) -> ImmutableSandboxedEnvironment:
    """A sandboxed environment over one channel's folder of templates."""
    made = _Environment(
        loader=InliningLoader(folder),
        autoescape=select_autoescape(enabled_extensions=("html",), default=False),
        undefined=_Undefined,
        auto_reload=False,
        cache_size=-1,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"link": _link, "money": formats.money, "day": formats.day, "moment": formats.moment}
    return made


@dataclass(frozen=True, slots=True)
class EmailTemplate:
    """One template in one language, compiled."""

    name: str
    language: str
    subject: Template
    text: Template
    html: Template
    defaults: Mapping[str, Any] = field(default_factory=dict)
    """What Jinja gives to every template; a context may use the names for its own."""

    def render(self, context: Mapping[str, Any]) -> tuple[str, str, str]:
        """Subject (one line), text and HTML; InvalidInput names a variable that is missing or cannot be used."""
        values = {**self.defaults, **context}
        try:
            # The HTML keeps its subject: layouts show it as the document's title.
            subject = values["subject"] = " ".join(_run(self.subject, values).split())
            return subject, _run(self.text, values), _run(self.html, values)
        except _MissingVariableError as exc:
            raise InvalidInput(
                f"context.{exc.variable}", f"is required by template {self.name!r} ({self.language}); add it"
            ) from None
        except InvalidInput:
            raise
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as exc:
            # Only data can bring this about: the sample of every template renders.
            raise InvalidInput("context", f"template {self.name!r} ({self.language}) cannot use it: {exc}") from exc


def _run(template: Template, values: dict[str, Any]) -> str:
    # What Template.render does, but for the copy of all globals that it makes each time: a third of its time.
    context = template.environment.context_class(template.environment, values, template.name, template.blocks)
    return "".join(template.root_render_func(context))


def render(name: str, language: str | None, context: Mapping[str, Any]) -> tuple[str, str, str]:
    """Subject, text and HTML of an email template; InvalidInput names template or variable."""
    return _template(name, language).render(context)


@lru_cache(maxsize=1)
def _environment() -> ImmutableSandboxedEnvironment:
    return environment(catalog.FOLDER / "email")


@lru_cache(maxsize=256)
def _template(name: str, language: str | None) -> EmailTemplate:
    found = catalog.language_for("email", name, language)
    # Amounts and dates as in the region that was asked for, if the words are of its language.
    locale = language if language and language.split("-")[0] == found.split("-")[0] else found
    return compiled(_environment(), name, found, locale)


def compiled(source: ImmutableSandboxedEnvironment, name: str, language: str, locale: str) -> EmailTemplate:
    """A template in a language that has it; amounts and dates are written as in `locale`."""
    words = settings().templates
    constants = {
        "product_name": words.product_name,
        "product_url": words.product_url,
        "support_email": words.support_email,
        "language": language,
        "locale": locale,
    }

    def load(file: str) -> Template:
        return flattening.load(source, f"{language}/{name}/{file}", constants)

    return EmailTemplate(name, language, load("subject.txt"), load("body.txt"), load("body.html"), dict(source.globals))
