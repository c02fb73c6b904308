"""Each message type's rules as `backline.enqueue` checks them, generated from its model.

One jsonpath holds all rules but size limits, which jsonpath cannot measure: PostgreSQL evaluates it at once, while PL/pgSQL
prepares each expression again in every transaction. Size limits are checked only in payloads that are large enough to break one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from backline.channels.sms.limits import text_limits
from backline.channels.sms.settings import SmsSettings
from backline.messages.base import MessageType
from backline.messages.fields import (
    ANY_JSON,
    MAX_DEPTH,
    MAX_DIGITS,
    MAX_EXPONENT,
    SQL_CHOICES,
    SQL_EXCLUDED_KEYS,
    SQL_KEYS,
    SQL_LIMIT,
    SQL_MAX_LENGTH,
    SQL_PATTERN,
    SQL_RULES,
    currencies,
)
from backline.messages.rules import branches, spec
from backline.messages.secrets import MAX_ID_LENGTH, REFERENCE_KEY
from backline.preferences.quiet_hours import zone_names
from backline.preferences.settings import PreferenceSettings
from backline.settings import settings

Json = Mapping[str, Any]

CHOICES: Mapping[str, Callable[[], Iterable[str]]] = {
    "currencies": currencies,
    "time_zones": lambda: zone_names().values(),
    "topics": lambda: settings().section(PreferenceSettings).topics,
}
TEXT_LIMITS: Mapping[str, Callable[[], Iterable[tuple[str, int]]]] = {
    "sms": lambda: text_limits(settings().section(SmsSettings).max_segments)
}
"""Patterns of texts and the characters that such a text may have."""
MAX_PATTERN_LENGTH = 60
"""Up to this length a pattern limits a text: that is fast if it is short."""
MEMBER_SIZE = 8
"""Bytes that jsonb needs at least for a member of an object, and for a level of nesting."""


class SizeLimit(NamedTuple):
    """A maximum that jsonpath cannot check."""

    path: str
    """jsonpath of the texts and objects that it concerns."""
    most: int
    """Characters or members; 0 for values that must not be there."""
    min_size: int
    """Bytes that a jsonb with more has at least."""


class FieldCheck(NamedTuple):
    """What SQL checks of one field."""

    name: str
    rule: Json
    """As in `rules.spec`, for the error's text, and an example."""
    path: str
    """jsonpath of the payload: true if the field is valid, but for its size limits."""
    limits: list[SizeLimit]


def field_checks(kind: type[MessageType]) -> list[FieldCheck]:
    """The checks of a type's fields, in the model's order."""
    schema, required = kind.model_json_schema(), set(kind.model_json_schema().get("required", ()))
    checks = []
    for name, rule in spec(kind)["fields"].items():
        field = schema["properties"][name]
        if name in kind.secret_fields:
            path, limits = _secret(f"$.{json.dumps(name)}", rule, kind.secret_references.get(name, ())), []
        else:
            path = _value(f"$.{json.dumps(name)}", field, schema)
            limits = list(_limits(f"$.{json.dumps(name)}", field, schema))
        check = _member("$", name, path, is_required=name in required)
        if name in (rules := schema.get(SQL_RULES, {})):
            check = f"({check} && {_rule('$', rules[name])})"
        example = next(iter(field.get("examples", ())), kind.example.get(name))
        checks.append(FieldCheck(name, {**rule, "example": example}, check, limits))
    return checks


def payload_path(checks: list[FieldCheck]) -> str:
    """jsonpath that is true for a payload whose fields are all valid, but for their size limits."""
    return " && ".join(['$.type() == "object"', *(check.path for check in checks)])


def small_size(kind: type[MessageType], checks: list[FieldCheck]) -> int:
    """Bytes of a jsonb that is too small to break a size limit; its text may be several times as long."""
    sizes = [limit.min_size for check in checks for limit in check.limits]
    return min([*sizes, (kind.max_payload_bytes or 2**30) // 4])


# jsonpath in lax mode, in which all but type() and size() looks into arrays: so a value's type is tested first.


def _member(path: str, name: str, check: str, *, is_required: bool) -> str:
    return check if is_required else f"(!exists({path}.{json.dumps(name)}) || {check})"


def _secret(path: str, rule: Json, statements: Iterable[str]) -> str:
    forms = [f'{path}.type() == "string" && {_matches(path, "^gAAAA[A-Za-z0-9_-]*={0,2}$")}']
    for name in statements:  # `secrets.parse_reference`
        reference, identity = f"{path}.{json.dumps(REFERENCE_KEY)}", f"{path}.id"
        number, text = (
            _matches(f"{identity}.string()", "^-?[0-9]{1,18}$"),
            _matches(identity, f"^.{{1,{MAX_ID_LENGTH}}}$"),
        )
        forms.append(
            f'{path}.type() == "object" && {reference}.type() == "string" && {reference} == {json.dumps(name)}'
            f' && !exists({path}.keyvalue() ? (@.key != {json.dumps(REFERENCE_KEY)} && @.key != "id"))'
            f' && ({identity}.type() == "number" && {number} || {identity}.type() == "string" && {text})'
        )
    if "null" in rule["type"]:
        forms.append(f'{path}.type() == "null"')
    return "(" + " || ".join(f"({form})" for form in forms) + ")"


def _value(path: str, field: Json, root: Json) -> str:
    return "(" + " || ".join(_branch(path, branch, root) for branch in branches(field, root)) + ")"


def _branch(path: str, field: Json, root: Json) -> str:
    tests = [*_type(path, field), *_text(path, field), *_contents(path, field, root)]
    for limit, sign in (("minimum", ">="), ("maximum", "<=")):
        if limit in field:
            tests.append(f"{path} {sign} {field[limit]}")
    for limit, sign in (("minItems", ">="), ("maxItems", "<=")):
        if limit in field:
            tests.append(f"{path}.size() {sign} {field[limit]}")
    return "(" + " && ".join(tests or [f"exists({path})"]) + ")"


def _type(path: str, field: Json) -> Iterator[str]:
    if (kind := field.get("type")) is not None:
        yield f"{path}.type() == {_json_type(kind)}"
    if kind == "integer":
        yield f"{path}.floor() == {path}"
    if choices := field.get("enum", [field["const"]] if "const" in field else []):
        yield "(" + " || ".join(f"{path} == {json.dumps(choice)}" for choice in choices) + ")"


def _json_type(kind: str) -> str:
    return '"number"' if kind == "integer" else f'"{kind}"'


def _text(path: str, field: Json) -> Iterator[str]:
    if field.get("type") != "string":
        return
    patterns = [field[keyword] for keyword in ("pattern", SQL_PATTERN) if keyword in field]
    if SQL_CHOICES in field:
        patterns.append(f"^({'|'.join(map(re.escape, CHOICES[field[SQL_CHOICES]]()))})$")
    yield from (_matches(path, pattern) for pattern in patterns)
    least, most = field.get("minLength", 0), field.get("maxLength", 0)
    if 0 < most <= MAX_PATTERN_LENGTH:
        yield _matches(path, f"^.{{{least},{most}}}$")
    elif least:
        yield _matches(path, f"^.{{{least}}}") if least > 1 else f'{path} != ""'


def _matches(path: str, pattern: str, flags: str = "s") -> str:
    # Without the flag "s" neither a dot nor [^x] matches a line feed.
    return f'{path} like_regex {json.dumps(pattern)} flag "{flags}"'


def _rule(path: str, rule: str) -> str:
    return rule.replace("@.", f"{path}.")


def _contents(path: str, field: Json, root: Json) -> Iterator[str]:
    if "items" in field:
        yield from _all(f"{path}[*]", field["items"], root)
    if "properties" in field:
        keys = " && ".join(f"@.key != {json.dumps(name)}" for name in field["properties"])
        yield f"!exists({path}.keyvalue() ? ({keys}))"
        for name, member in field["properties"].items():
            check = _value(f"{path}.{json.dumps(name)}", member, root)
            yield _member(path, name, check, is_required=name in field.get("required", ()))
        yield from (_rule(path, rule) for rule in field.get(SQL_RULES, {}).values())
    elif isinstance(members := field.get("additionalProperties"), Mapping) and members and not field.get(ANY_JSON):
        yield from _all(f"{path}.*", members, root)
    if SQL_KEYS in field:
        yield f"!exists({path}.keyvalue() ? (!({_matches('@.key', field[SQL_KEYS], 'si')})))"
    yield from (f"!exists({path}.{json.dumps(name)})" for name in field.get(SQL_EXCLUDED_KEYS, ()))
    if field.get(ANY_JSON):
        most, least = f"1e{MAX_EXPONENT}", f"1e-{MAX_EXPONENT}"
        # The first filter leaves only numbers: the other comparisons would each take time with every text.
        yield f"!exists({path}.** ? (@.abs() >= 0) ? (@.abs() >= {most} || @.abs() < {least} && @ != 0))"


def _all(path: str, field: Json, root: Json) -> Iterator[str]:
    """That all values of a path are valid. Their types are compared outside of the filter, which looks into arrays."""
    types = sorted({_json_type(branch["type"]) for branch in branches(field, root) if "type" in branch})
    if not types:  # any
        return
    yield f"!exists({path}.type() ? ({' && '.join(f'@ != {kind}' for kind in types)}))"
    yield f"!exists({path} ? (!{_value('@', field, root)}))"


def _limits(path: str, field: Json, root: Json) -> Iterator[SizeLimit]:
    for branch in branches(field, root):
        if (most := branch.get(SQL_MAX_LENGTH, branch.get("maxLength", 0))) > MAX_PATTERN_LENGTH:
            yield SizeLimit(path, most, most)
        if SQL_LIMIT in branch:
            for pattern, characters in TEXT_LIMITS[branch[SQL_LIMIT]]():
                yield SizeLimit(f"{path} ? ({_matches('@', pattern)})", characters, characters)
        if "maxProperties" in branch:
            yield SizeLimit(path, branch["maxProperties"], branch["maxProperties"] * MEMBER_SIZE)
        if branch.get(ANY_JSON):
            yield SizeLimit(f"{path}.**{{{MAX_DEPTH + 1} to last}}", 0, MAX_DEPTH * MEMBER_SIZE)
            # A numeric has four digits in two bytes.
            yield SizeLimit(f'{path}.** ? (@.type() == "number").string()', MAX_DIGITS, MAX_DIGITS // 4)
        if "items" in branch:
            yield from _limits(f"{path}[*]", branch["items"], root)
        for name, member in branch.get("properties", {}).items():
            yield from _limits(f"{path}.{json.dumps(name)}", member, root)
        if isinstance(members := branch.get("additionalProperties"), Mapping) and members and not branch.get(ANY_JSON):
            yield from _limits(f"{path}.*", members, root)
