"""Each kind of change to a message type, compared with the snapshot of the type before."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field

from backline.messages.base import EmailMessage, MessageType
from testkit.schema_snapshot import FILE, check, write

SHORT = Annotated[str, Field(min_length=1, max_length=20)]


class Part(BaseModel):
    model_config = ConfigDict(extra="forbid")

    label: SHORT
    count: Annotated[int, Field(ge=1, le=10)] = 1


class SmallPart(Part):
    label: Annotated[str, Field(min_length=1, max_length=10)]


class NamedPart(Part):
    name: str


class Before(EmailMessage):
    """The type as it was."""

    secret_fields: ClassVar[frozenset[str]] = frozenset({"code"})
    example: ClassVar = {"title": "Party", "code": "made-up", "size": 3, "parts": [{"label": "a"}]}

    title: SHORT
    code: Annotated[str, Field(examples=["made-up"])]
    size: Annotated[int, Field(ge=0, le=100)] = 0
    kind: Literal["small", "large"] = "small"
    tags: Annotated[tuple[SHORT, ...], Field(max_length=5)] = ()
    note: SHORT | None = None
    parts: tuple[Part, ...] = ()
    extra: dict[str, str] | None = None


Before.declare("invitation", {"email": "email.normal"})


def changed(fields: Mapping[str, tuple[Any, Any]] | None = None, /, **attributes: Any) -> type[MessageType]:
    """The type with other fields or class variables."""
    annotations = {name: kind for name, (kind, _) in (fields or {}).items()}
    defaults = {name: default for name, (_, default) in (fields or {}).items() if default is not ...}
    for name, value in attributes.items():
        annotations[name] = ClassVar[type(value)]
    body = {"__annotations__": annotations, "__module__": __name__, **defaults, **attributes}
    made: type[MessageType] = type("After", (Before,), body)
    made.declare("invitation", attributes.get("lanes", Before.lanes))
    return made


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "message_types.json"
    assert write([Before], file) == []
    assert check([Before], file) == []
    return file


INCOMPATIBLE = {
    "a shorter text": ({"title": (Annotated[str, Field(min_length=1, max_length=10)], ...)}, "field title: maxLength changed from 20 to 10"),
    "a longer text": ({"title": (Annotated[str, Field(min_length=2, max_length=20)], ...)}, "field title: minLength changed from 1 to 2"),
    "a pattern": ({"title": (Annotated[SHORT, Field(pattern="^A")], ...)}, "field title: pattern changed from None to ^A"),
    "a smaller range": ({"size": (Annotated[int, Field(ge=0, le=50)], 0)}, "field size: maximum changed from 100 to 50"),
    "a higher minimum": ({"size": (Annotated[int, Field(ge=1, le=100)], 1)}, "field size: minimum changed from 0 to 1"),
    "another type": ({"size": (str, "")}, "field size: type integer is no longer allowed"),
    "no null": ({"note": (SHORT, "")}, "field note: type null is no longer allowed"),
    "fewer choices": ({"kind": (Literal["small"], "small")}, "field kind: 'large' is no longer allowed"),
    "choices instead of any text": ({"title": (Literal["Party"], ...)}, "field title: only 'Party' are allowed now"),
    "fewer items": ({"tags": (Annotated[tuple[SHORT, ...], Field(max_length=3)], ())}, "field tags: maxItems changed from 5 to 3"),
    "narrower items": ({"parts": (tuple[SmallPart, ...], ())}, "field parts[].label: maxLength changed from 20 to 10"),
    "items with a new required field": ({"parts": (tuple[NamedPart, ...], ())}, "field parts[].name is new and required"),
    "narrower values": ({"extra": (dict[str, Annotated[str, Field(max_length=20)]] | None, None)}, "field extra[]: maxLength changed from None to 20"),
    "a new required field": ({"place": (str, ...)}, "field place is new and required"),
    "an optional field that is required": ({"size": (Annotated[int, Field(ge=0, le=100)], Field())}, "field size became required"),
}  # fmt: skip


@pytest.mark.parametrize(("fields", "problem"), INCOMPATIBLE.values(), ids=INCOMPATIBLE)
def test_an_incompatible_change_is_refused(fields: Mapping[str, tuple[Any, Any]], problem: str, file: Path) -> None:
    before = file.read_text()
    expected = [f"invitation: {problem}; raise its version to 2 and define `upgrade`, or undo the change"]
    assert check([changed(fields)], file) == expected
    assert write([changed(fields)], file) == expected
    assert file.read_text() == before


def test_a_removed_field_is_refused(file: Path) -> None:
    class After(EmailMessage):
        secret_fields: ClassVar[frozenset[str]] = Before.secret_fields
        title: SHORT
        code: str

    After.declare("invitation", Before.lanes)

    [*_, last] = check([After], file)
    assert "field tags was removed" in last
    assert len(check([After], file)) == 6


@pytest.mark.parametrize(
    ("attributes", "problem"),
    [
        ({"secret_fields": frozenset()}, "field code is no longer secret"),
        ({"secret_fields": frozenset({"code", "title"})}, "field title became secret"),
        ({"lanes": {"sms": "sms.normal"}}, "channel email was removed"),
    ],
)
def test_secrets_and_channels_are_compared(attributes: dict[str, Any], problem: str, file: Path) -> None:
    [found] = check([changed(**attributes)], file)
    assert problem in found


COMPATIBLE: dict[str, tuple[dict[str, tuple[Any, Any]], dict[str, Any]]] = {
    "a longer limit": ({"title": (Annotated[str, Field(min_length=1, max_length=40)], ...)}, {}),
    "no limit": ({"title": (str, ...)}, {}),
    "a new optional field": ({"place": (SHORT | None, None)}, {}),
    "more choices": ({"kind": (Literal["small", "large", "huge"], "small")}, {}),
    "any text instead of choices": ({"kind": (str, "small")}, {}),
    "null as well": ({"size": (Annotated[int, Field(ge=0, le=100)] | None, None)}, {}),
    "another type as well": ({"size": (Annotated[int, Field(ge=0, le=100)] | SHORT, 0)}, {}),
    "numbers instead of integers": ({"size": (Annotated[float, Field(ge=0, le=100)], 0)}, {}),
    "optional instead of required": ({"title": (SHORT, "Party")}, {}),
    "another channel": ({}, {"lanes": {"email": "email.normal", "sms": "sms.normal"}}),
}


@pytest.mark.parametrize(("fields", "attributes"), COMPATIBLE.values(), ids=COMPATIBLE)
def test_a_compatible_change_only_needs_the_snapshot(
    fields: Mapping[str, tuple[Any, Any]], attributes: dict[str, Any], file: Path
) -> None:
    after = changed(fields, **attributes)
    [problem] = check([after], file)
    assert problem.startswith("message_types.json is out of date; run ")
    assert write([after], file) == []
    assert check([after], file) == []


def test_descriptions_and_defaults_are_not_compared(file: Path) -> None:
    size = (Annotated[int, Field(ge=0, le=100, title="Size", description="How many.", examples=[5])], 7)
    assert check([changed({"size": size})], file) == []


class Renamed(EmailMessage):
    """The next version: `title` is `subject`, and `size` is required."""

    version: ClassVar[int] = 2
    secret_fields: ClassVar[frozenset[str]] = Before.secret_fields
    example: ClassVar = {"subject": "Party", "code": "made-up", "size": 3}

    subject: SHORT
    code: Annotated[str, Field(examples=["made-up"])]
    size: int

    @classmethod
    def upgrade(cls, payload: Mapping[str, Any], from_version: int) -> Mapping[str, Any]:
        assert from_version == 1
        return {"subject": payload["title"], "code": payload["code"], "size": payload.get("size", 0)}


Renamed.declare("invitation", Before.lanes)


def test_a_raised_version_needs_an_upgrade(file: Path) -> None:
    class WithoutUpgrade(Renamed):
        @classmethod
        def upgrade(cls, payload: Mapping[str, Any], from_version: int) -> Mapping[str, Any]:  # noqa: ARG003
            return payload

    [problem] = check([WithoutUpgrade], file)
    assert problem.startswith("invitation: `upgrade` does not convert version 1: subject: is required")
    assert write([WithoutUpgrade], file) == [problem]


def test_an_upgrade_must_handle_optional_fields_that_are_missing(file: Path) -> None:
    class Careless(Renamed):
        @classmethod
        def upgrade(cls, payload: Mapping[str, Any], from_version: int) -> Mapping[str, Any]:  # noqa: ARG003
            return {"subject": payload["title"], "code": payload["code"], "size": payload["size"]}

    assert check([Careless], file) == ["invitation: `upgrade` does not convert version 1: KeyError: 'size'"]


def test_a_removed_channel_has_no_upgrade(file: Path) -> None:
    class ByText(Renamed):
        """By SMS only."""

    ByText.declare(Renamed.type_name, {"sms": "sms.normal"})

    [problem] = check([ByText], file)
    assert "the type is no longer sent over email" in problem


def test_a_raised_version_is_added_and_the_old_one_kept(file: Path) -> None:
    assert check([Renamed], file)[0].startswith("message_types.json is out of date")
    assert write([Renamed], file) == []
    assert check([Renamed], file) == []
    assert set(json.loads(file.read_text())["invitation"]) == {"1", "2"}


def test_a_version_is_never_lowered(file: Path) -> None:
    assert write([Renamed], file) == []
    assert check([Before], file) == ["invitation: its version 1 is lower than 2 in the snapshot"]


def test_a_removed_type_is_reported_and_a_new_one_is_added(file: Path) -> None:
    class Other(Before):
        """Another type."""

    Other.declare("other", Before.lanes)

    assert check([Other], file)[0].startswith("invitation: was removed; delete its entry")
    assert write([Before, Other], file) == []
    assert set(json.loads(file.read_text())) == {"invitation", "other"}


def test_the_committed_snapshot_is_current() -> None:
    assert check() == []
    assert FILE.is_file()
