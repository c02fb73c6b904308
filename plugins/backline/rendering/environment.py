"""What templates of every channel share: the sandbox that they run in, their constants, and errors that name the variable.

The templates are ours, the context is data: nothing in it is ever run as a template.
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


def _safe_link(url: object) -> str:
    """A filter for what goes into href: only the web and mail, never javascript: or data:."""
    text = str(url)
    if not text.lower().startswith(LINK_SCHEMES):
        raise InvalidInput("context", f"{text[:80]!r} cannot be linked to; give an http, https or mailto URL")
    return text


class _Environment(ImmutableSandboxedEnvironment):
    """A sandbox in which `order.items` means the data's field, not the method that every dict has."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        """As Jinja's, but a key of the data comes first."""
        if type(obj) is dict and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)


def create_environment(loader: BaseLoader) -> ImmutableSandboxedEnvironment:
    """A sandboxed environment for templates that come from this loader; those that end in .html escape what they show."""
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
    """The language that a template is there in, and the locale of amounts and dates; InvalidInput if there is no such template."""
    found = catalog.resolve_language(channel, name, language)
    # Amounts and dates as in the region that was asked for, if the words are of its language.
    return found, language if language and language.split("-")[0] == found.split("-")[0] else found


def template_constants(language: str, locale: str) -> dict[str, str]:
    """What every template can use, and no context can override."""
    words = settings().section(TemplateSettings)
    return {
        "product_name": words.product_name,
        "product_url": words.product_url,
        "support_email": words.support_email,
        "language": language,
        "locale": locale,
    }


RENDER_ERRORS = (TemplateError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError)
"""What rendering may raise besides InvalidInput. Only data can bring it about: the sample of every template renders."""


def to_invalid_input(exc: Exception, name: str, language: str) -> InvalidInput:
    """One of ERRORS as InvalidInput, which names a variable that is missing or cannot be used."""
    if isinstance(exc, _MissingVariableError):
        return InvalidInput(f"context.{exc.variable}", f"is required by template {name!r} ({language}); add it")
    return InvalidInput("context", f"template {name!r} ({language}) cannot use it: {exc}")


def render_template(template: Template, values: dict[str, Any]) -> str:
    """What the template says of these values; Jinja's errors pass through."""
    # What Template.render does, but for the copy of all globals that it makes each time: a third of its time.
    context = template.environment.context_class(template.environment, values, template.name, template.blocks)
    return "".join(template.root_render_func(context))
