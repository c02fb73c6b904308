"""What SQL can check of a payload, derived from the type's model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from backline.messages.base import MessageType

JSON_TYPES = ("string", "number", "integer", "boolean", "object", "array", "null")
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
         "recipient": "email",
         "lanes": {"email": "email.normal"},
         "max_attempts": null,
         "secret": [],
         "fields": {"name":      {"type": ["string"], "required": true, "min_length": 1, "max_length": 200},
                    "login_url": {"type": ["string", "null"], "required": false, "max_length": 2000}}}

    `type` is always a list, of: string, number, integer (a number without fraction), boolean,
    object, array, null. A value must be of one of them. The other keys of a field are there only
    when there is such a rule: `min_length` and `max_length` count the characters of a string, the
    items of an array or the keys of an object; `minimum` and `maximum` bound a number; `enum` lists
    the values that are allowed. null is bound by `type` alone. A key that is not in `fields` is an error.

    A secret field is either text that the app sealed itself (Fernet, begins with "gAAAA") or an
    object {"$ref": ...} that is resolved when it is sent: `secret` names such fields, their type is
    ["string", "object"] and no limit is given. Top-level fields only: what only the model can judge
    (both bodies missing, an unknown template, a bad path) is judged at dispatch.
    """
    schema = kind.model_json_schema()
    required = set(schema.get("required", ()))
    return {
        "type": kind.type_name,
        "recipient": kind.channels[0],
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
    """The alternatives of a field's JSON schema, references followed."""
    if "$ref" in field:
        yield from branches(schema["$defs"][field["$ref"].rsplit("/", 1)[1]], schema)
    elif "anyOf" in field:
        for branch in field["anyOf"]:
            yield from branches(branch, schema)
    else:
        yield field


def _secret(*, required: bool) -> dict[str, Any]:
    return {"type": ["string", "object"] if required else ["string", "object", "null"], "required": required}


def _field(field: Mapping[str, Any], schema: Mapping[str, Any], *, required: bool) -> dict[str, Any]:
    alternatives = list(branches(field, schema))
    types: list[str] = []
    for branch in alternatives:
        named = branch.get("type", list(JSON_TYPES))
        types += [name for name in ([named] if isinstance(named, str) else named) if name not in types]
    rules: dict[str, Any] = {"type": types, "required": required}
    substantial = [branch for branch in alternatives if branch.get("type") != "null"]
    # Of several alternatives each has its own limits, which one flat rule cannot say: then only the type is checked.
    if len(substantial) == 1:
        rules |= {ours: substantial[0][theirs] for theirs, ours in LIMITS.items() if theirs in substantial[0]}
        if "enum" in substantial[0] or "const" in substantial[0]:
            rules["enum"] = substantial[0].get("enum", [substantial[0].get("const")])
    return rules


def form_order(schema: Mapping[str, Any]) -> list[str]:
    """A type's fields as people read them: the required ones, the others, the language."""
    required = set(schema.get("required", ()))
    return sorted(schema["properties"], key=lambda name: (name not in required, name == "language"))
