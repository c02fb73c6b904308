"""Shared by the templates of all channels: the sandbox, the constants, and errors that name the variable.

The templates are trusted, their context is not: it is never executed as a template.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from jinja2 import BaseLoader, StrictUndefined, Template, TemplateError, select_autoescape
from jinja2.exceptions import UndefinedError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import missing

from backline.errors import InvalidInput
from backline.rendering import catalog, formats
from backline.rendering.settings import TemplateSettings
from backline.settings import settings

LINK_SCHEMES = ("http://", "https://", "mailto:")


class _MissingVariableError(UndefinedError):
    def __init__(self, variable: str) -> None:
        super().__init__(variable)
        self.variable = variable


class _Undefined(StrictUndefined):
    """An undefined variable whose use raises an error with its name."""

    __slots__ = ()

    def __init__(
        self,
        hint: str | None = None,
        obj: Any = missing,
        name: str | None = None,
        exc: type[Exception] = UndefinedError,
    ) -> None:
        # The sandbox passes an exception of its own for forbidden access.
        factory = partial(_missing_variable, name) if exc is UndefinedError else exc
        super().__init__(hint, obj, name, factory)  # type: ignore[arg-type]


def _missing_variable(name: str | None, _hint: str) -> Exception:
    return _MissingVariableError(str(name))


def _safe_link(url: object) -> str:
    """Filter for values of href: allows http, https and mailto, not javascript: or data:."""
    text = str(url)
    if not text.lower().startswith(LINK_SCHEMES):
        raise InvalidInput("context", f"{text[:80]!r} is not allowed as a link; give an http, https or mailto URL")
    return text


class _Environment(ImmutableSandboxedEnvironment):
    """A sandbox in which `order.items` is the data's key, not the method of dict."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        """As Jinja's, but a dict's keys come first."""
        if type(obj) is dict and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)


def create_environment(loader: BaseLoader) -> ImmutableSandboxedEnvironment:
    """A sandboxed environment with this loader; templates that end in .html escape their values."""
    made = _Environment(
        loader=loader,
        autoescape=select_autoescape(enabled_extensions=("html",), default=False),
        undefined=_Undefined,
        auto_reload=False,
        cache_size=-1,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters |= {"link": _safe_link, "money": formats.money, "day": formats.day, "timestamp": formats.timestamp}
    return made


def resolve_language_and_locale(channel: str, name: str, language: str | None) -> tuple[str, str]:
    """The language to render a template in, and the locale of amounts and dates; InvalidInput for an unknown template."""
    found = catalog.resolve_language(channel, name, language)
    # Amounts and dates follow the requested region if the template is in its language.
    return found, language if language and language.split("-")[0] == found.split("-")[0] else found


def template_constants(language: str, locale: str) -> dict[str, str]:
    """Constants that every template can use and no context can override."""
    config = settings().section(TemplateSettings)
    return {
        "product_name": config.product_name,
        "product_url": config.product_url,
        "support_email": config.support_email,
        "language": language,
        "locale": locale,
    }


RENDER_ERRORS = (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError)
"""Errors of rendering besides InvalidInput. Only data can cause them: every template renders with its sample."""


def to_invalid_input(exc: Exception, name: str, language: str) -> InvalidInput:
    """One of RENDER_ERRORS as InvalidInput, which names a variable that is missing or not usable."""
    if isinstance(exc, _MissingVariableError):
        return InvalidInput(f"context.{exc.variable}", f"is required by template {name!r} ({language}); add it")
    return InvalidInput("context", f"template {name!r} ({language}) cannot use it: {exc}")


def render_template(template: Template, values: dict[str, Any]) -> str:
    """Render the template with these values; Jinja's errors are not translated."""
    # As Template.render, but without its copy of all globals, which takes a third of the time.
    context = template.environment.context_class(template.environment, values, template.name, template.blocks)
    return "".join(template.root_render_func(context))
