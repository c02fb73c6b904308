"""`enqueue` and `enqueue_many` refuse the same payloads with the same errors."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import psycopg
import pytest
from hypothesis import HealthCheck, example, given, note
from hypothesis import settings as profile
from hypothesis import strategies as st
from pydantic import Field, JsonValue

from backline.channels.registry import definition
from backline.messages.base import MessageType
from backline.messages.registry import all_types
from backline.messages.sync import sync_type
from backline.settings import settings
from tests.integration.outbox.support import Outbox


def examples(kind: type[MessageType]) -> str | dict[str, str]:
    """A recipient on each of a type's channels."""
    found = {channel: definition(channel).recipient_example for channel in kind.channels}
    return found if len(found) > 1 else next(iter(found.values()))


class Every(MessageType):
    """A type made up for these tests, with every rule that a field can have."""

    secret_fields: ClassVar[frozenset[str]] = frozenset({"code"})
    secret_references: ClassVar = {"code": ("otp",)}
    example: ClassVar = {"must": "x", "code": {"$ref": "otp", "id": 1}}

    must: str = Field(max_length=5)
    level: Literal["low", "high"] | None = None
    count: int = Field(1, ge=-1, le=10)
    share: float | None = Field(None, ge=0.5)
    flag: bool = False
    tags: tuple[JsonValue, ...] = Field((), min_length=1, max_length=2)
    pairs: dict[str, JsonValue] | None = Field(None, min_length=1, max_length=2)
    either: str | int | None = None
    free: JsonValue = None
    few: dict[str, JsonValue] = Field({}, max_length=1)
    code: str | None = None


class Encrypted(MessageType):
    """Nothing but a secret."""

    secret_fields: ClassVar[frozenset[str]] = frozenset({"code"})
    example: ClassVar = {"code": "gAAAA"}

    code: str


Every.declare("every", {"email": "email.normal"})
Encrypted.declare("encrypted", {"email": "email.normal"})
TYPES: list[type[MessageType]] = [*all_types(), Every, Encrypted]
FIELDS = {kind.type_name: list(kind.model_fields) for kind in TYPES}
EXAMPLES: dict[str, dict[str, Any]] = {kind.type_name: dict(kind.example) for kind in TYPES}
RECIPIENTS = {kind.type_name: kind.check_recipient(examples(kind)) for kind in all_types()}

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-2, 12)
    | st.sampled_from([0.5, 1.0, 1.5, 10.0, 1e300, 10**40, "low", "gAAAAx"])
)
texts = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=7) | st.integers(
    0, 2001
).map(lambda length: "𝄞" * length)
values = (
    st.recursive(
        scalars | texts,
        lambda inner: (
            st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["$ref", "a", "b", "c"]), inner, max_size=4)
        ),
        max_leaves=6,
    )
    | st.integers(0, 110).map(lambda size: {f"k{number}": number for number in range(size)})
    | st.integers(0, 60).map(lambda size: ["ann@example.com"] * size)
)


@st.composite
def payloads(draw: st.DrawFn) -> tuple[str, Any]:
    """A type's name and its example with some fields changed, taken out or added; at times no object at all."""
    name = draw(st.sampled_from(list(FIELDS)))
    if draw(st.integers(0, 19)) == 0:
        return name, draw(values)
    payload = dict(EXAMPLES[name])
    for field in draw(st.lists(st.sampled_from([*FIELDS[name], "other"]), max_size=4, unique=True)):
        if draw(st.integers(0, 3)) == 0:
            payload.pop(field, None)
        else:
            payload[field] = draw(values)
    return name, payload


@pytest.fixture(scope="module")
def both(shared_database: str) -> Iterator[psycopg.Connection[Any]]:
    with Outbox(shared_database) as outbox:
        outbox.truncate()
        for kind in (Every, Encrypted):
            sync_type(outbox.connection, kind, settings())
        yield outbox.connection
        outbox.truncate()


def problem(
    connection: psycopg.Connection[Any], call: str, name: str, payload: object
) -> tuple[str, str | None] | None:
    """The call's error about the payload, as text and field, or None when it is accepted; rolled back."""
    try:
        with connection.transaction(force_rollback=True):
            connection.execute(call, (name, RECIPIENTS.get(name, "ann@example.com"), json.dumps(payload)))
    except psycopg.errors.InvalidParameterValue as exc:
        text = str(exc.diag.message_primary).replace("message 1: ", "").replace("enqueue_many", "enqueue")
        return text, exc.diag.column_name
    return None


@given(drawn=payloads())
@example(drawn=("every", {"must": "x", "few": {"a": 1, "b": 2}}))
@example(drawn=("every", {"must": "x", "code": None}))
@example(drawn=("encrypted", {"code": None}))
@profile(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
def test_one_and_many_agree_on_every_payload(both: psycopg.Connection[Any], drawn: tuple[str, Any]) -> None:
    name, payload = drawn
    one = problem(both, "SELECT backline.enqueue(%s, %s, %s::jsonb)", name, payload)
    many = problem(both, "SELECT backline.enqueue_many(%s, ARRAY[%s], ARRAY[%s]::jsonb[])", name, payload)
    note(f"{name}: {payload}")
    assert one == many


@pytest.mark.parametrize("name", FIELDS)
def test_model_and_sql_accept_the_example_and_refuse_an_unknown_field(both: psycopg.Connection[Any], name: str) -> None:
    calls = [
        "SELECT backline.enqueue(%s, %s, %s::jsonb)",
        "SELECT backline.enqueue_many(%s, ARRAY[%s], ARRAY[%s]::jsonb[])",
    ]
    for call in calls:
        assert problem(both, call, name, EXAMPLES[name]) is None
        refused = problem(both, call, name, {**EXAMPLES[name], "other": 1})
        assert refused is not None
        assert refused[1] == "other"
