"""What each registered type must define, so that its form, docs, templates and tests are complete."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import pytest

from backline.errors import BacklineError
from backline.messages import registry
from backline.messages.base import MessageType
from backline.messages.templated import PersonalMessage
from backline.rendering import catalog
from backline.settings import settings

FILES = {"email": ("subject.txt", "body.txt", "body.html"), "sms": ("body.txt",)}


def find_gaps(kind: type[MessageType]) -> Iterator[str]:
    """What the definition of a type lacks, with the fix."""
    for lane in kind.lanes.values():
        if lane not in settings().lanes:
            yield f"lane {lane!r} is not in backline.toml; use one of: {', '.join(settings().lanes)}"
    for name, field in kind.model_fields.items():
        if not field.description:
            yield f"field {name!r} has no description; give it Field(description=...)"
    try:
        kind.parse(kind.sample())
    except BacklineError as error:
        yield f"its `example` is not a valid payload: {error}"
    if kind.template_name is None:
        return
    for channel in FILES.keys() & kind.channels:
        for language in sorted({language for found in catalog.templates(channel).values() for language in found}):
            folder = catalog.TEMPLATE_FOLDER / channel / language / kind.template_name
            for file in FILES[channel]:
                if not (folder / file).is_file():
                    yield f"{(folder / file).relative_to(catalog.TEMPLATE_FOLDER.parents[1])} is missing; add it"


@pytest.mark.parametrize("kind", registry.all_types(), ids=lambda kind: kind.type_name)
def test_a_type_is_complete(kind: type[MessageType]) -> None:
    assert list(find_gaps(kind)) == []


def test_a_gap_is_named() -> None:
    class Unfinished(PersonalMessage):
        example: ClassVar = {}
        undescribed: str

    Unfinished.declare("unfinished", {"email": "email.nomal"})
    gaps = "\n".join(find_gaps(Unfinished))
    assert "lane 'email.nomal' is not in backline.toml; use one of: " in gaps
    assert "field 'undescribed' has no description" in gaps
    assert "`example` is not a valid payload: name: is required" in gaps
    assert "include/templates/email/de/unfinished/subject.txt is missing; add it" in gaps
