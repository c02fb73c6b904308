"""Settings that come from the environment: `BACKLINE__SECTION__KEY`, read as the file would say it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

PREFIX = "BACKLINE__"


def environment() -> dict[str, Any]:
    """What the environment sets, as the file would say it: BACKLINE__EMAIL__TIMEOUT_SECONDS, or BACKLINE__EMAIL as JSON."""
    found: dict[str, Any] = {}
    given = {name.upper(): value for name, value in os.environ.items() if name.upper().startswith(PREFIX)}
    for name, value in sorted(given.items()):  # a whole section comes before its settings, which beat it
        *outer, key = name.removeprefix(PREFIX).lower().split("__")
        said: dict[str, Any] = {key: _value(value)}
        for part in reversed(outer):
            said = {part: said}
        found = merged(found, said)
    return found


def _value(text: str) -> object:
    """A list or a table is JSON; numbers and truth values are read from text where they are checked."""
    if text.lstrip().startswith(("{", "[")):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text


def merged(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Both, table by table; `over` wins."""
    both = {**under, **over}
    for key in under.keys() & over.keys():
        if isinstance(under[key], dict) and isinstance(over[key], dict):
            both[key] = merged(under[key], over[key])
    return both
