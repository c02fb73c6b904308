"""Translates pydantic's validation errors: each names its field, and the text says how to fix it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from backline.errors import InvalidInput

MAX_COUNTED_ERRORS = 1000
"""Of more wrong fields only the number is reported."""
MAX_LISTED_PROBLEMS = 20
"""Wrong fields that one InvalidInput names."""
MAX_FIELD_LENGTH = 200
"""Characters of a field's path; its names may be the caller's."""
UNKNOWN_FIELD = "is not a known field; remove it or check its spelling"
NUL_PATTERN = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000")
"""A NUL escaped in JSON, but not an escaped backslash followed by "u0000"."""

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

Location = tuple[int | str, ...]


class FieldProblem(NamedTuple):
    """One wrong field."""

    location: Location
    text: str

    @property
    def field(self) -> str:
        """The field's path: `attachments[0].path`."""
        return field_path(self.location)


def field_problems(
    errors: ValidationError | Sequence[Any],
    *,
    unknown_field: Callable[[Location], str] = lambda _: UNKNOWN_FIELD,
    secret: frozenset[str] = frozenset(),
) -> list[FieldProblem]:
    """All wrong fields. `unknown_field` gives the text for an unknown one; no text quotes the value of a `secret` field."""
    if isinstance(errors, ValidationError) and errors.error_count() > MAX_COUNTED_ERRORS:
        return [FieldProblem((), f"has {errors.error_count():,} wrong fields; check its form")]
    details = errors.errors(include_url=False) if isinstance(errors, ValidationError) else errors
    return [_translate(error, unknown_field, secret) for error in details]


def to_invalid_input(problems: Sequence[FieldProblem]) -> InvalidInput:
    """One InvalidInput for all problems: its field is the first one's, its text lists the others too."""
    rest = "".join(f"; also {problem.field}: {problem.text}" for problem in problems[1:MAX_LISTED_PROBLEMS])
    if len(problems) > MAX_LISTED_PROBLEMS:
        rest += f"; and {len(problems) - MAX_LISTED_PROBLEMS:,} more"
    return InvalidInput(problems[0].field, problems[0].text + rest)


def shorten(text: str, length: int) -> str:
    """The text, cut to a number of characters."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def field_path(location: Sequence[int | str]) -> str:
    """A field's location as a path: `attachments[0].path`; a very long one is cut."""
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return shorten(text, MAX_FIELD_LENGTH) or "payload"


def field_error(field: str, problem: str) -> PydanticCustomError:
    """The error of a model-level validator about one of the model's fields."""
    return PydanticCustomError("wrong_field", "{problem}", {"field": field, "problem": problem})


def reject_nul(payload: Mapping[str, object], text: bytes) -> None:
    """Raise InvalidInput for a NUL, which jsonb and email cannot hold. `text` is the payload as JSON."""
    if b"\\u0000" in text and NUL_PATTERN.search(text):
        location = next(_nul_locations(payload, ()), ())
        raise InvalidInput(field_path(location), "holds a NUL character (\\u0000); remove it")


def _nul_locations(value: Any, location: Location) -> Iterator[Location]:
    if isinstance(value, str) and "\0" in value:
        yield location
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from ([location] if "\0" in str(key) else _nul_locations(item, (*location, str(key))))
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from _nul_locations(item, (*location, number))


def _translate(error: ErrorDetails, unknown_field: Callable[[Location], str], secret: frozenset[str]) -> FieldProblem:
    kind, context, location = error["type"], error.get("ctx", {}), error["loc"]
    if kind in {"too_long", "too_short"} and isinstance(error["input"], str):  # a text's limit after a validator's
        kind = f"string_{kind}"
    if kind == "extra_forbidden":
        text = unknown_field(location)
    elif kind in EXPECTED_TYPES:
        text = f"must be {EXPECTED_TYPES[kind]}, not {_json_type_name(error['input'])}"
    elif kind == "string_too_short" and context["min_length"] == 1:
        text = ERROR_TEXTS["empty"]
    elif kind in ERROR_TEXTS:
        text = ERROR_TEXTS[kind].format_map(context)
    elif kind == "wrong_field":
        location, text = (*location, context["field"]), context["problem"]
    elif kind == "value_error":
        # Such a text may quote the value.
        text = "is not acceptable" if field_path(location) in secret else str(context["error"])
    else:
        text = error["msg"][0].lower() + error["msg"][1:]
    return FieldProblem(location, text)


def _json_type_name(value: object) -> str:
    for kind, name in ((type(None), "null"), (bool, "true or false"), (int | float, "a number"), (str, "a string")):
        if isinstance(value, kind):
            return name
    return "an object" if isinstance(value, Mapping) else "a list"
