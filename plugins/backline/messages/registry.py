"""Every message type, by name."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypeVar

from backline.errors import InvalidInput
from backline.messages import types
from backline.messages.base import RESERVED_KEYS, MessageType

T = TypeVar("T", bound=MessageType)

_types: dict[str, type[MessageType]] = {}


def register(name: str, **lanes: str) -> Callable[[type[T]], type[T]]:
    """Class decorator: registers a type with a lane per channel, `@register("welcome", email="email.normal")`.

    ValueError for an invalid definition, which is a bug in the type.
    """

    def decorate(kind: type[T]) -> type[T]:
        kind.declare(name, lanes)
        if name in _types and _types[name] is not kind:
            both = f"{_types[name].__qualname__}, {kind.__qualname__}"
            raise ValueError(f"message type {name!r} is defined twice: {both}")
        if problem := _find_mistake(kind):
            raise ValueError(f"{name}: {problem}")
        _types[name] = kind
        return kind

    return decorate


def _find_mistake(kind: type[MessageType]) -> str | None:
    fields = set(kind.model_fields)
    if taken := RESERVED_KEYS & fields:
        return f"field {min(taken)!r} is a key beside the payload; give the field another name"
    if unknown := kind.secret_fields - fields:
        return f"secret field {min(unknown)!r} is not a field of the payload"
    if unknown := frozenset(kind.secret_references) - kind.secret_fields:
        return f"secret_references names {min(unknown)!r}, which is not a secret field"
    if kind.expiry_field not in {None, *fields}:
        return f"expiry_field {kind.expiry_field!r} is not a field of the payload"
    if not kind.lanes:
        return "no lanes"
    for channel in kind.lanes:
        if not callable(getattr(kind, channel, None)):
            return f"is sent over {channel}, so its class must define {channel}(), which returns the content"
    if "webhook" in kind.lanes and (kind.type_name, len(kind.lanes)) != ("webhook", 1):
        return "events are sent as the type webhook, with an event type of their own"
    return None


def get(name: str) -> type[MessageType]:
    """The type of that name; InvalidInput for the field `type`, listing the known ones."""
    if name not in _types:
        _load(_find_module(name))
    try:
        return _types[name]
    except KeyError:
        raise InvalidInput(
            "type", f"{name!r} is not a message type; known types: {', '.join(sorted(_types))}"
        ) from None


def find(name: str) -> type[MessageType] | None:
    """The type of that name, or None if there is none."""
    try:
        return get(name)
    except InvalidInput:
        return None


def all_types() -> tuple[type[MessageType], ...]:
    """Every type, by name."""
    _load(None)
    return tuple(_types[name] for name in sorted(_types))


@cache
def _load(module: str | None) -> None:
    # Here, because the types' modules import this one to register themselves.
    for name in [each.name for each in pkgutil.iter_modules(types.__path__)] if module is None else [module]:
        importlib.import_module(f"{types.__name__}.{name}")


def _find_module(type_name: str) -> str | None:
    """The module that registers a type, by its text: a task for one type would pay 20 ms for the import of all."""
    files = Path(types.__file__).parent.glob("*.py")
    return next((file.stem for file in files if f'@register("{type_name}"' in file.read_text(encoding="utf-8")), None)
