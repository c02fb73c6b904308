"""Settings from the environment: `BACKLINE__SECTION__KEY`, in the structure of the settings file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

ENVIRONMENT_PREFIX = "BACKLINE__"


def read_environment() -> dict[str, Any]:
    """The settings of the environment: BACKLINE__EMAIL__TIMEOUT_SECONDS, or BACKLINE__EMAIL as JSON."""
    found: dict[str, Any] = {}
    given = {name.upper(): value for name, value in os.environ.items() if name.upper().startswith(ENVIRONMENT_PREFIX)}
    for name, value in sorted(given.items()):  # a whole section is sorted before its settings, which override it
        *outer, key = name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__")
        setting: dict[str, Any] = {key: _parse_value(value)}
        for part in reversed(outer):
            setting = {part: setting}
        found = deep_merge(found, setting)
    return found


def _parse_value(text: str) -> object:
    """Lists and tables are JSON; numbers and booleans stay text, which the settings' validation converts."""
    if text.lstrip().startswith(("{", "[")):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text


def deep_merge(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two mappings, table by table; `overrides` takes precedence."""
    both = {**base, **overrides}
    for key in base.keys() & overrides.keys():
        if isinstance(base[key], dict) and isinstance(overrides[key], dict):
            both[key] = deep_merge(base[key], overrides[key])
    return both
