"""The rules that SQL checks of a payload, derived from the type's model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from backline.messages.base import MessageType
from backline.messages.fields import ANY_JSON, MAX_DEPTH, MAX_EXPONENT, SQL_EXCLUDED_KEYS

JSON_TYPES = ("string", "number", "integer", "boolean", "object", "array", "null")
ANY_JSON_PROBLEM = (
    f"may have {MAX_DEPTH} levels and numbers of {MAX_EXPONENT} digits; make it flatter, or give the numbers as text"
)
LIMITS = {
    "minLength": "min_length",
    "maxLength": "max_length",
    "minItems": "min_length",
    "maxItems": "max_length",
    "minProperties": "min_length",
    "maxProperties": "max_length",
    "minimum": "minimum",
    "maximum": "maximum",
}


def spec(kind: type[MessageType]) -> dict[str, Any]:
    """The rules of a type that `backline.enqueue` checks in SQL, as JSON.

    ::

        {"type": "welcome",
         "lanes": {"email": "email.normal"},
         "max_attempts": null,
         "secret": [],
         "fields": {"name":      {"type": ["string"], "required": true, "min_length": 1, "max_length": 200},
                    "login_url": {"type": ["string", "null"], "required": false, "max_length": 2000}}}

    `type` is always a list of string, number, integer (a number without a fraction), boolean, object, array, null; a value must
    be one of them. A field's other keys are present only with such a rule: `min_length` and `max_length` count the characters of
    a string, the items of an array or the keys of an object; `minimum` and `maximum` limit a number; `enum` lists the allowed
    values; `any_json` says what a field that takes any JSON may have. null is checked by `type` alone. A payload key
    that is not in `fields` is an error.

    A secret field is Fernet text (it begins with "gAAAA") or an object {"$ref": ...} that is resolved when the message is sent:
    its rule has `secret`, its type is ["string", "object"], and it has no limits. These are the rules for
    an error's text and the docs; `sql_checks` has all that SQL checks.
    """
    schema = kind.model_json_schema()
    required = set(schema.get("required", ()))
    return {
        "type": kind.type_name,
        "lanes": dict(kind.lanes),
        "max_attempts": kind.max_attempts,
        "secret": sorted(kind.secret_fields),
        "fields": {
            name: _secret(required=name in required)
            if name in kind.secret_fields
            else _field(field, schema, required=name in required)
            for name, field in schema.get("properties", {}).items()
        },
    }


def branches(field: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The alternatives of a field's JSON schema, references followed; keywords beside them apply to each."""
    if "$ref" in field:
        yield from branches(schema["$defs"][field["$ref"].rsplit("/", 1)[1]], schema)
    elif "anyOf" in field:
        common = {keyword: value for keyword, value in field.items() if keyword != "anyOf"}
        for branch in field["anyOf"]:
            yield from branches({**common, **branch}, schema)
    else:
        yield field


def _secret(*, required: bool) -> dict[str, Any]:
    types = ["string", "object"] if required else ["string", "object", "null"]
    return {"type": types, "required": required, "secret": True}


def _field(field: Mapping[str, Any], schema: Mapping[str, Any], *, required: bool) -> dict[str, Any]:
    alternatives = list(branches(field, schema))
    types: list[str] = []
    for branch in alternatives:
        named = branch.get("type", list(JSON_TYPES))
        types += [name for name in ([named] if isinstance(named, str) else named) if name not in types]
    rules: dict[str, Any] = {"type": types, "required": required}
    substantial = [branch for branch in alternatives if branch.get("type") != "null"]
    # Several alternatives have their own limits, which one flat rule cannot express: then only the type is checked.
    if len(substantial) == 1:
        rules |= {rule: substantial[0][keyword] for keyword, rule in LIMITS.items() if keyword in substantial[0]}
        if "enum" in substantial[0] or "const" in substantial[0]:
            rules["enum"] = substantial[0].get("enum", [substantial[0].get("const")])
        if substantial[0].get(ANY_JSON):
            taken = substantial[0].get(SQL_EXCLUDED_KEYS)
            rules["any_json"] = ANY_JSON_PROBLEM + (f", and none of the names {', '.join(taken)}" if taken else "")
    return rules


def form_order(schema: Mapping[str, Any]) -> list[str]:
    """A type's fields in the order of forms and docs: the required ones, the optional ones, the language."""
    required = set(schema.get("required", ()))
    return sorted(schema["properties"], key=lambda name: (name not in required, name == "language"))
