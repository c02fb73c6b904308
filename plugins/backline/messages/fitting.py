"""Fits texts from the app's tables to the fields of a message type, so that none of them keeps a message from being sent."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any
from urllib.parse import quote

from backline.messages.base import MessageType
from backline.messages.fields import LINE_PATTERN, SQL_PATTERN, TEXT_PATTERN

ELLIPSIS = "…"
EMPTY_TEXTS = {"name": "customer"}
EMPTY_TEXT = "unnamed"
"""What a field gets whose text is blank: by the field's name, else this."""
_BLANKS = re.compile(r"[\s\x00-\x1f\x7f-\x9f]+")
"""Everything that `fields.check_line` refuses, and all white space."""
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]+")
_JSON_TYPES: tuple[tuple[type, str], ...] = ((str, "string"), (Mapping, "object"), (Sequence, "array"))


def fit(kind: type[MessageType], payload: Mapping[str, object]) -> dict[str, Any]:
    """The payload, or a part of one, with texts that its fields accept. The limits are those of the type's own fields.

    In a field of one line, control characters, line breaks and runs of blanks become one blank; in one of several lines only
    control characters do. A text that is too long is cut and ends in "…"; for a blank one there is a neutral word. URLs, codes
    and values that are not texts stay as they are.
    """
    schema = _schema(kind)
    return _fit_object(payload, schema, schema)


def fill_url(template: str, **values: str) -> str:
    """The URL with each `{name}` replaced by its value, percent-encoded (RFC 3986, section 2.1)."""
    for name, value in values.items():
        template = template.replace(f"{{{name}}}", quote(value, safe=""))
    return template


@cache
def _schema(kind: type[MessageType]) -> dict[str, Any]:
    return kind.model_json_schema()


def _fit_object(value: Mapping[str, object], rule: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    rules = rule.get("properties", {})
    return {name: _fit(member, rules.get(name, {}), schema, name) for name, member in value.items()}


def _fit(value: object, rule: Mapping[str, Any], schema: Mapping[str, Any], name: str) -> object:
    json_type = next((name for kind, name in _JSON_TYPES if isinstance(value, kind)), None)
    if json_type is None:
        return value
    if reference := rule.get("$ref"):
        rule = schema["$defs"][reference.rpartition("/")[2]]
    rule = next((one for one in rule.get("anyOf", ()) if one.get("type") == json_type), rule)
    if isinstance(value, str):
        return _fit_text(value, rule, name)
    if isinstance(value, Mapping):
        return _fit_object(value, rule, schema)
    return [_fit(item, rule.get("items", {}), schema, name) for item in value]  # type: ignore[attr-defined]


def _fit_text(text: str, rule: Mapping[str, Any], name: str) -> str:
    pattern, limit = rule.get(SQL_PATTERN), rule.get("maxLength")
    if pattern not in {LINE_PATTERN, TEXT_PATTERN} or limit is None:
        return text
    text = (_BLANKS if pattern == LINE_PATTERN else _CONTROLS).sub(" ", text).strip()
    text = text or EMPTY_TEXTS.get(name, EMPTY_TEXT)
    return text if len(text) <= limit else text[: limit - len(ELLIPSIS)].rstrip() + ELLIPSIS
