"""Generates the types' part of docs/messages.md from the models: `python -m backline.messages.docs`."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from backline.errors import FailureClass
from backline.messages import recipients, registry
from backline.messages.base import MessageType
from backline.messages.rules import form_order, spec
from backline.rendering import catalog
from backline.settings import DEFAULT_RETRY_POLICIES, ROOT

PAGE = ROOT / "docs" / "messages.md"
BEGIN = "<!-- Made by `python -m backline.messages.docs`: edit the models, not these lines. -->"
END = "<!-- End of the made part. -->"


def render_page(file: Path = PAGE) -> str:
    """The page: the hand-written text around the markers, and the generated part between them."""
    text = file.read_text(encoding="utf-8")
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{file} lacks one of its markers: {BEGIN} and {END}")
    types = [_type_section(kind) for kind in registry.all_types()]
    parts = [*types, _templates_section("email"), _templates_section("sms"), _failures_section()]
    return f"{head}{BEGIN}\n\n" + "\n".join(parts) + f"\n{END}{tail}"


def _sql_literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _type_section(kind: type[MessageType]) -> str:
    lanes = " and ".join(f"{channel} over lane `{lane}`" for channel, lane in kind.lanes.items())
    attempts = f"at most {kind.max_attempts} attempts" if kind.max_attempts else "attempts as set for its lane"
    to: Any = recipients.EXAMPLES.get(kind.channels[0], "...")
    if len(kind.channels) > 1:
        to = {channel: recipients.EXAMPLES.get(channel, "...") for channel in kind.channels}
    recipient = to if isinstance(to, str) else _json(to)
    shown = ", ".join(map(_sql_literal, (kind.type_name, recipient, _json(kind.example))))
    notes = "".join([
        f" Template `{kind.template_name}`." if kind.template_name else "",
        *(_secret(kind, name) for name in sorted(kind.secret_fields)),
        f" Expires at `{kind.expiry_field}`." if kind.expiry_field else "",
        f" Expires {kind.lifetime.total_seconds() / 60:g} minutes after it was accepted." if kind.lifetime else "",
    ])  # fmt: skip
    fields = "\n".join(_fields(kind))
    return f"""### {kind.type_name}

{" ".join(inspect.cleandoc(kind.__doc__ or "").split())}

Sent by {lanes}; {attempts}.{notes}

| field | type | required | limits | description |
|---|---|---|---|---|
{fields}

```sql
SELECT backline.enqueue({shown});
```

The same as the conf of `send_{kind.type_name}`:

```json
{_json({"to": to, **kind.example})}
```
"""


def _secret(kind: type[MessageType], name: str) -> str:
    statements = " or ".join(f"`{statement}`" for statement in kind.secret_references.get(name, ()))
    return f" Secret: `{name}`, as Fernet text" + (f" or by a reference to {statements}." if statements else ".")


def _fields(kind: type[MessageType]) -> Iterator[str]:
    schema, rules = kind.model_json_schema(), spec(kind)["fields"]
    for name in form_order(schema):
        rule, field = rules[name], schema["properties"][name]
        types = " or ".join(one for one in rule["type"] if one != "null")
        limits = _limits(rule)
        if field.get("default") is not None:
            limits = f"{limits}; " * bool(limits) + f"default `{field['default']}`"
        yield f"| `{name}` | {types} | {'yes' if rule['required'] else ''} | {limits} | {field.get('description', '')} |"


def _limits(rule: Mapping[str, Any]) -> str:
    if "enum" in rule:
        return "one of " + ", ".join(f"`{value}`" for value in rule["enum"])
    limits = []
    kind = next(one for one in rule["type"] if one != "null")
    unit = {"string": "characters", "array": "items", "object": "keys"}.get(kind, "")
    if "max_length" in rule:
        least = f"{rule['min_length']} to " if rule.get("min_length") else "at most "
        limits.append(f"{least}{rule['max_length']:,} {unit}")
    if "minimum" in rule or "maximum" in rule:
        limits.append(f"{rule.get('minimum', '')} to {rule.get('maximum', '')}")
    return "; ".join(limits)


def _templates_section(channel: str) -> str:
    used = {kind.template_name: kind.type_name for kind in registry.all_types() if channel in kind.channels}
    rows = []
    for name, languages in catalog.templates(channel).items():
        if name in used:
            variables = f"the fields of [{used[name]}](#{used[name]})"
        else:
            variables = ", ".join(f"`{key}`" for key in catalog.sample_context(channel, name))
        rows.append(f"| `{name}` | {', '.join(languages)} | {variables} |")
    return "\n".join(
        [f"### Templates for {channel}", "", "| template | languages | variables |", "|---|---|---|", *rows, ""]
    )


def _failures_section() -> str:
    rows = []
    for failure in FailureClass:
        policy = "permanent: dead at once"
        if retry := DEFAULT_RETRY_POLICIES.get(failure):
            delay = f"{retry.initial_delay_seconds:g} s, times {retry.multiplier:g} with each attempt"
            policy = f"{delay}, at most {retry.max_delay_seconds:g} s, ± {retry.jitter:.0%}"
        rows.append(f"| `{failure}` | {FAILURE_CLASS_TEXT[failure]} | {policy} |")
    return "\n".join(["### Failure classes", "", "| class | when | next attempt, by default |", "|---|---|---|", *rows])


FAILURE_CLASS_TEXT = {
    FailureClass.TIMEOUT: "The provider did not answer in time; the next attempt waits longer for it.",
    FailureClass.NETWORK: "No connection, or it broke.",
    FailureClass.DATABASE: "A transient SQLSTATE.",
    FailureClass.RATE_LIMITED: "The provider asked to slow down; its Retry-After is followed, within limits.",
    FailureClass.RESOURCE: "The provider, or this host, is out of a resource.",
    FailureClass.VALIDATION: "A field, template, path or setting is invalid; the text names it.",
    FailureClass.AUTHENTICATION: "Our credentials were refused.",
    FailureClass.REJECTED: "Rejected permanently: SMTP 5xx; HTTP 4xx except 408, 425 and 429; HTTP 410.",
    FailureClass.UNKNOWN: "Any other failure.",
}


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def main() -> None:
    """Rewrite the page."""
    PAGE.write_text(render_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
