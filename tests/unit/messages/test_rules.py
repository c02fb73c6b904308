"""The rules that SQL checks: never stricter than the model, and no laxer where they can say it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import pytest
from hypothesis import HealthCheck, given, note
from hypothesis import settings as profile
from hypothesis import strategies as st
from pydantic import Field

from backline.errors import InvalidInput
from backline.messages import registry
from backline.messages.base import MessageType
from backline.messages.rules import spec

TYPES = registry.all_types()


class Every(MessageType):
    """A type made up for these tests, with every rule that a field can have."""

    secret_fields: ClassVar[frozenset[str]] = frozenset({"code"})
    max_attempts: ClassVar[int | None] = 2
    example: ClassVar = {"code": {"$ref": "mfa_code", "id": 1}, "level": "low", "count": 1}

    code: str = Field(min_length=6, max_length=6, examples=["123456"])
    level: Literal["low", "high"]
    count: int = Field(ge=1, le=10)
    share: float | None = Field(None, ge=0, le=1)
    done: bool = False
    tags: tuple[str, ...] = Field((), min_length=0, max_length=3)
    what: str | int | None = None
    note: str | None = Field(None, min_length=2, max_length=5)
    extra: dict[str, str] | None = Field(None, max_length=2)


Every.declare("every", {"email": "email.normal"})


ALL: list[type[MessageType]] = [*TYPES, Every]


def json_types(value: object) -> set[str]:
    if value is None:
        return {"null"}
    if isinstance(value, bool):
        return {"boolean"}
    if isinstance(value, int):
        return {"integer", "number"}
    if isinstance(value, float):
        return {"number", "integer"} if value.is_integer() else {"number"}
    return {"string"} if isinstance(value, str) else {"object"} if isinstance(value, dict) else {"array"}


def problem(rules: Mapping[str, Any], payload: Mapping[str, Any]) -> str | None:
    """What SQL would say of a payload: the first wrong field, or None."""
    fields = rules["fields"]
    for name in payload:
        if name not in fields:
            return name
    for name, rule in fields.items():
        if name not in payload:
            if rule["required"]:
                return str(name)
            continue
        value = payload[name]
        if not json_types(value) & set(rule["type"]):
            return str(name)
        if value is None:
            continue
        if "enum" in rule and value not in rule["enum"]:
            return str(name)
        if isinstance(value, str | list | dict):
            if not rule.get("min_length", 0) <= len(value) <= rule.get("max_length", len(value)):
                return str(name)
        elif not isinstance(value, bool) and not rule.get("minimum", value) <= value <= rule.get("maximum", value):
            return str(name)
    return None


def accepted(kind: type[MessageType], payload: Mapping[str, Any]) -> bool:
    try:
        kind.parse(payload)
    except InvalidInput:
        return False
    return True


scalars = st.none() | st.booleans() | st.integers(-3, 12) | st.floats(allow_nan=False, allow_infinity=False)
words = st.sampled_from(
    ["ann@example.com", "notice", "en", "pt-BR", "low", "https://shop.example/", "123456", "", " ", "𝄞"]
)
texts = words | st.text(max_size=8) | st.integers(0, 2001).map(lambda length: "𝄞" * length)
values = st.recursive(
    scalars | texts,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["name", "X-A", "path"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@st.composite
def payloads(draw: st.DrawFn) -> tuple[type[MessageType], dict[str, Any]]:
    kind = draw(st.sampled_from(ALL))
    payload = kind.sample()
    for name in draw(st.lists(st.sampled_from([*kind.model_fields, "other"]), max_size=3, unique=True)):
        if draw(st.booleans()):
            payload.pop(name, None)
        else:
            payload[name] = draw(values)
    return kind, payload


@given(payloads())
@profile(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_what_the_model_accepts_sql_accepts(drawn: tuple[type[MessageType], dict[str, Any]]) -> None:
    kind, payload = drawn
    if accepted(kind, payload):
        rules = spec(kind)
        if kind is Every:  # Its secret is in the clear here, which the rules do not bound.
            assert rules["fields"]["code"] == {"type": ["string", "object"], "required": True, "secret": True}
        note(f"{kind.type_name}: {payload}")
        assert problem(rules, payload) is None


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.type_name)
def test_the_rules_are_json_and_the_example_keeps_them(kind: type[MessageType]) -> None:
    rules = spec(kind)
    assert json.loads(json.dumps(rules)) == rules
    assert problem(rules, kind.example) is None
    assert set(rules["fields"]) == set(kind.model_fields)


def over_the_edge() -> list[Any]:
    cases = []
    for kind in ALL:
        for name, rule in spec(kind)["fields"].items():
            if name in kind.secret_fields:
                continue
            filler: dict[str, Any] = {"string": "x", "array": ["ann@example.com"]}
            sort = rule["type"][0]
            if sort in filler and "max_length" in rule:
                cases.append((kind, name, filler[sort] * (rule["max_length"] + 1)))
            if sort == "object" and "max_length" in rule:
                cases.append((kind, name, {f"X-{number}": "1" for number in range(rule["max_length"] + 1)}))
            if rule.get("min_length") and sort in filler:
                cases.append((kind, name, filler[sort] * (rule["min_length"] - 1)))
            if "maximum" in rule:
                cases += [(kind, name, rule["maximum"] + 1), (kind, name, rule["minimum"] - 1)]
            if "enum" in rule:
                cases.append((kind, name, "no such choice"))
            if "null" not in rule["type"]:
                cases.append((kind, name, None))
    return [pytest.param(*case, id=f"{case[0].type_name}-{case[1]}-{number}") for number, case in enumerate(cases)]


@pytest.mark.parametrize(("kind", "name", "value"), over_the_edge())
def test_model_and_rules_refuse_the_same_field_past_each_limit(kind: type[MessageType], name: str, value: Any) -> None:
    payload = {**kind.sample(), name: value}
    assert problem(spec(kind), payload) == name
    with pytest.raises(InvalidInput) as caught:
        kind.parse(payload)
    assert caught.value.field.split("[")[0] == name


def test_length_counts_characters_not_bytes() -> None:
    payload = {"name": "𝄞" * 200}
    assert accepted(registry.get("welcome"), payload)
    assert problem(spec(registry.get("welcome")), payload) is None


def test_the_rules_of_a_field_in_full() -> None:
    rules = spec(Every)
    assert rules | {"fields": None} == {
        "type": "every",
        "lanes": {"email": "email.normal"},
        "max_attempts": 2,
        "secret": ["code"],
        "fields": None,
    }
    assert rules["fields"] == {
        "code": {"type": ["string", "object"], "required": True, "secret": True},
        "level": {"type": ["string"], "required": True, "enum": ["low", "high"]},
        "count": {"type": ["integer"], "required": True, "minimum": 1, "maximum": 10},
        "share": {"type": ["number", "null"], "required": False, "minimum": 0, "maximum": 1},
        "done": {"type": ["boolean"], "required": False},
        "tags": {"type": ["array"], "required": False, "min_length": 0, "max_length": 3},
        "what": {"type": ["string", "integer", "null"], "required": False},
        "note": {"type": ["string", "null"], "required": False, "min_length": 2, "max_length": 5},
        "extra": {"type": ["object", "null"], "required": False, "max_length": 2},
    }
