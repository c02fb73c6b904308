"""A message type's fields as Airflow Params, which give the trigger form of its `send_<type>` DAG."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from backline.channels.registry import definition
from backline.messages.recipients import example
from backline.messages.rules import branches, form_order
from backline.messages.run_conf import MAX_REQUEST_ID_LENGTH
from backline.messages.secrets import FERNET_PREFIX

if TYPE_CHECKING:
    from airflow.sdk import Param

    from backline.messages.base import MessageType

RECIPIENT_MAX_LENGTH = 5000
"""Of a recipient; its channel validates it further."""

MULTILINE_MIN_LENGTH = 2000
"""A text field that may be longer than this many characters gets a multiline input."""

COPIED_KEYWORDS = frozenset(
    {"minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties", "minimum", "maximum", "format"}
)


def params_for(kind: type[MessageType]) -> dict[str, Param]:
    """The Params: `to`, required fields, optional ones, `request_id`, `expires_at`. The type's model checks the rest."""
    # Imported here, because this module is imported where DAG files are parsed.
    from airflow.sdk import Param

    schema = kind.model_json_schema()
    required = set(schema.get("required", ()))
    fields = schema["properties"]
    return {
        "to": _recipient_param(kind),
        **{name: _param(kind, name, fields[name], schema, required=name in required) for name in form_order(schema)},
        "request_id": Param(
            None, type=["null", "string"], title="Request id", maxLength=MAX_REQUEST_ID_LENGTH,
            description="The request that this message comes from; every log line contains it.",
        ),
        "expires_at": Param(
            None, type=["null", "string"], format="date-time", title="Expires at", description="Not sent after this time.",
        ),
    }  # fmt: skip


def _recipient_param(kind: type[MessageType]) -> Param:
    from airflow.sdk import Param

    if len(kind.channels) == 1:
        [channel] = map(definition, kind.channels)
        text = channel.recipient_help
        return Param(
            type="string", title="To", description=text[0].upper() + text[1:],
            minLength=min(3, len(channel.recipient_example)), maxLength=RECIPIENT_MAX_LENGTH,
        )  # fmt: skip
    text = f"An address, or an object with one for each channel; a channel that is left out gets nothing: {json.dumps(example(kind.channels))}"
    return Param(type=["string", "object"], title="To", description=text, minLength=3, maxLength=RECIPIENT_MAX_LENGTH)


def _param(
    kind: type[MessageType], name: str, field: Mapping[str, Any], schema: Mapping[str, Any], *, required: bool
) -> Param:
    from airflow.sdk import Param

    secret = name in kind.secret_fields
    rules = _secret_schema(kind, name) if secret else _param_schema(field, schema)
    types = rules.pop("type")
    example = next(iter(field.get("examples", ())), kind.example.get(name))
    description = field.get("description", "")
    if secret:
        description += f" Secret: {_secret_help(kind, name)}."
    elif example is not None and "enum" not in rules:
        # As text: Airflow's form would show `examples` as a list to choose from.
        description += f" For example: {json.dumps(example, ensure_ascii=False)}"
    rules |= {"title": field.get("title", name), "description": description.strip()}
    if required:
        return Param(type=types[0] if len(types) == 1 else types, **rules)
    if "enum" in rules:
        rules["enum"] = [*rules["enum"], None]
    default = field.get("default")
    return Param(default, type=["null", *types], **rules)


def _secret_schema(kind: type[MessageType], name: str) -> dict[str, Any]:
    # Every viewer of the DAG can read a conf, so a plaintext secret is refused before it is stored.
    types = ["string", "object"] if kind.secret_references.get(name) else ["string"]
    return {"type": types, "pattern": f"^{FERNET_PREFIX}"}


def _secret_help(kind: type[MessageType], name: str) -> str:
    forms = ["give Fernet text that your app encrypted"]
    forms += [f'or {{"$ref": "{statement}", "id": ...}}' for statement in kind.secret_references.get(name, ())]
    return " ".join(forms)


def _param_schema(field: Mapping[str, Any], schema: Mapping[str, Any]) -> dict[str, Any]:
    """JSON schema of a field without its null alternative: Airflow's form needs types and limits on one level."""
    alternatives = [branch for branch in branches(field, schema) if branch.get("type") != "null"]
    types = [str(branch["type"]) for branch in alternatives if "type" in branch]
    if len(alternatives) > 1 or not types:
        return {"type": types or ["string", "number", "boolean", "object", "array"]}
    only = alternatives[0]
    rules: dict[str, Any] = {"type": types} | {key: value for key, value in only.items() if key in COPIED_KEYWORDS}
    if "enum" in only or "const" in only:
        rules["enum"] = list(only.get("enum", [only.get("const")]))
    if types == ["array"]:
        items = next(branches(only.get("items", {}), schema))
        # Strings are entered one per line; all other types as JSON.
        rules["items"] = {"type": items.get("type", "object")}
    if types == ["string"] and rules.get("maxLength", 0) > MULTILINE_MIN_LENGTH:
        rules["format"] = "multiline"
    return rules
