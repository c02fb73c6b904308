"""Parts of JSON as they are written: Python's numbers would round their digits."""

from __future__ import annotations

from functools import cache
from typing import Any

from msgspec import DecodeError, Raw, defstruct
from msgspec.json import Decoder

from backline.errors import InvalidInput


def raw_member(text: str | bytes, name: str) -> bytes:
    """The member of a JSON object, as it is written; empty if it has none. InvalidInput for what is not JSON, such as NaN."""
    try:
        return bytes(getattr(_decoder(name, in_list=False).decode(text), name))
    except DecodeError as exc:
        raise _not_json(name, exc) from None


def _not_json(name: str, exc: DecodeError) -> InvalidInput:
    return InvalidInput(name, f"is not JSON, which has no NaN or Infinity: {exc}")


def raw_members(text: str | bytes, name: str) -> list[bytes]:
    """The member of each object in a JSON list, as it is written; InvalidInput for what is not JSON, such as NaN."""
    try:
        return [bytes(getattr(each, name)) for each in _decoder(name, in_list=True).decode(text)]
    except DecodeError as exc:
        raise _not_json(name, exc) from None


@cache
def _decoder(name: str, *, in_list: bool) -> Decoder[Any]:
    one: Any = defstruct("Object", [(name, Raw, Raw(b""))])
    return Decoder(list[one]) if in_list else Decoder(one)
