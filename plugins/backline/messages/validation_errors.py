"""pydantic's errors, in words that name the field and the fix."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from backline.errors import InvalidInput

NUL_PATTERN = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
"""A NUL escaped in JSON, and not a backslash that is itself escaped and followed by "u0000"."""

EXPECTED_TYPES = {
    "string_type": "a string",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
    "tuple_type": "a list",
    "list_type": "a list",
}

ERROR_TEXTS = {
    "missing": "is required; add it",
    "empty": "must not be empty",
    "string_too_short": "is too short; at least {min_length} characters",
    "string_too_long": "is too long; at most {max_length} characters",
    "too_short": "has too few items; at least {min_length}",
    "too_long": "has too many items; at most {max_length}",
}


def to_invalid_input(
    type_name: str, known: Sequence[str], error: ValidationError, secret: frozenset[str] = frozenset()
) -> InvalidInput:
    """One InvalidInput for all that is wrong: its field is the first one's, its text tells of each."""
    problems = [_explain(type_name, known, secret, detail) for detail in error.errors(include_url=False)]
    field, problem = problems[0]
    rest = "".join(f"; also {other}: {text}" for other, text in problems[1:])
    return InvalidInput(field, problem + rest)


def field_path(location: Sequence[int | str]) -> str:
    """A place in a payload as people write it: `attachments[0].path`."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text or "payload"


def reject_nul(payload: Mapping[str, Any], text: bytes) -> None:
    """Refuse a NUL anywhere: neither jsonb nor an email can hold one. `text` is the payload as JSON."""
    if b"\\u0000" in text and NUL_PATTERN.search(text):
        field = next(_nul_locations(payload, ()), ())
        raise InvalidInput(field_path(field), "holds a NUL character (\\u0000); remove it")


def _nul_locations(value: Any, location: tuple[int | str, ...]) -> Iterator[tuple[int | str, ...]]:
    if isinstance(value, str) and "\0" in value:
        yield location
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from ([location] if "\0" in str(key) else _nul_locations(item, (*location, str(key))))
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from _nul_locations(item, (*location, number))


def field_error(field: str, problem: str) -> PydanticCustomError:
    """For a check over a whole model, which has no place of its own: the field that it is about."""
    return PydanticCustomError("wrong_field", "{problem}", {"field": field, "problem": problem})


def _explain(type_name: str, known: Sequence[str], secret: frozenset[str], error: ErrorDetails) -> tuple[str, str]:
    kind, context, location = error["type"], error.get("ctx", {}), error["loc"]
    field = field_path(location)
    if kind == "extra_forbidden" and len(location) == 1:
        text = f"is not a field of {type_name}; known fields: {', '.join(known)}"
    elif kind == "extra_forbidden":
        text = "is not known here; remove it or mend its spelling"
    elif kind in EXPECTED_TYPES:
        text = f"must be {EXPECTED_TYPES[kind]}, not {_json_type_name(error['input'])}"
    elif kind in ERROR_TEXTS:
        text = ERROR_TEXTS["empty" if kind == "string_too_short" and context["min_length"] == 1 else kind].format_map(
            context
        )
    elif kind == "wrong_field":
        field, text = field_path((*location, context["field"])), context["problem"]
    elif kind == "value_error":
        # Such a text may quote the value.
        text = "is not acceptable" if field in secret else str(context["error"])
    else:
        text = error["msg"][0].lower() + error["msg"][1:]
    return field, text


def _json_type_name(value: object) -> str:
    for kind, name in ((type(None), "null"), (bool, "true or false"), (int | float, "a number"), (str, "a string")):
        if isinstance(value, kind):
            return name
    return "an object" if isinstance(value, Mapping) else "a list"
