"""Settings that come from the environment: `BACKLINE__SECTION__KEY`, read as the file would say it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

ENVIRONMENT_PREFIX = "BACKLINE__"


def read_environment() -> dict[str, Any]:
    """What the environment sets, as the file would say it: BACKLINE__EMAIL__TIMEOUT_SECONDS, or BACKLINE__EMAIL as JSON."""
    found: dict[str, Any] = {}
    given = {name.upper(): value for name, value in os.environ.items() if name.upper().startswith(ENVIRONMENT_PREFIX)}
    for name, value in sorted(given.items()):  # a whole section comes before its settings, which beat it
        *outer, key = name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
        said: dict[str, Any] = {key: _parse_value(value)}
        for part in reversed(outer):
            said = {part: said}
        found = deep_merge(found, said)
    return found


def _parse_value(text: str) -> object:
    """A list or a table is JSON; numbers and truth values are read from text where they are checked."""
    if text.lstrip().startswith(("{", "[")):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text


def deep_merge(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Both, table by table; `over` wins."""
    both = {**base, **overrides}
    for key in base.keys() & overrides.keys():
        if isinstance(base[key], dict) and isinstance(overrides[key], dict):
            both[key] = deep_merge(base[key], overrides[key])
    return both
