"""Reads `include/config/backline.toml` and over it the environment's `BACKLINE__SECTION__KEY`, and checks both once."""

from __future__ import annotations

import json
import os
import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from backline.errors import PERMANENT_CLASSES, Misconfigured
from backline.settings.base import deep_merge, find_job_section, format_errors, registered_sections
from backline.settings.core import Settings

ROOT = Path(__file__).resolve().parents[3]
"""The project's root: the folder with `dags/`, `plugins/` and `include/`."""
ENVIRONMENT_PREFIX = "BACKLINE__"


def resolve_folder(setting: str) -> Path:
    """A folder that a setting names: under BACKLINE_HOME, or under the project's root; an absolute one as it is."""
    return Path(os.environ.get("BACKLINE_HOME") or ROOT) / setting


def config_file() -> Path:
    """Where the settings are: BACKLINE_CONFIG, else `include/config/backline.toml`."""
    return Path(os.environ.get("BACKLINE_CONFIG") or ROOT / "include" / "config" / "backline.toml")


def load(path: Path) -> Settings:
    """Read and check one settings file; Misconfigured names file, key and fix."""
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Misconfigured(
            f"{path}: no such file; set BACKLINE_CONFIG or restore include/config/backline.toml"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise Misconfigured(f"{path}: not valid TOML: {exc}") from exc
    except OSError as exc:
        raise Misconfigured(f"{path}: cannot be read: {exc.strerror}; set BACKLINE_CONFIG to a file") from exc
    _check_environment()
    try:
        loaded = _build(deep_merge(values, _read_environment()))
    except Misconfigured as exc:
        raise Misconfigured(f"{_source(path, values, str(exc))}: {exc}") from None
    if wrong := sorted(set(loaded.retry) & PERMANENT_CLASSES):
        raise Misconfigured(f"{path}: retry.{wrong[0]}: this class is permanent and never retried; remove the section")
    return loaded


def _build(values: dict[str, Any]) -> Settings:
    try:
        return Settings.build(values)
    except ValidationError as exc:
        raise Misconfigured(format_errors(exc)) from None


def _source(path: Path, values: dict[str, Any], problem: str) -> str:
    """Where the wrong value comes from: the file, or variables of the environment if the file alone is valid."""
    try:
        _build(values)
    except Misconfigured:
        return str(path)
    names = [name for name in os.environ if name.upper().startswith(ENVIRONMENT_PREFIX)]
    named = [
        name for name in names if name.upper().removeprefix(ENVIRONMENT_PREFIX).replace("__", ".").lower() in problem
    ]
    return f"environment: {', '.join(sorted(named or names))}"


def _read_environment() -> dict[str, Any]:
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
    if not text.lstrip().startswith(("{", "[")):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text


def _check_environment() -> None:
    known = sorted({*Settings.model_fields, *registered_sections()})
    for name in os.environ:
        if not name.upper().startswith(ENVIRONMENT_PREFIX):
            continue
        section = name.upper().removeprefix(ENVIRONMENT_PREFIX).partition("__")[0].lower()
        if section not in known and not find_job_section(section):
            raise Misconfigured(f"environment: {name}: unknown section {section!r}; use one of: {', '.join(known)}")


@lru_cache(maxsize=1)
def settings() -> Settings:
    """The settings of this process, read once."""
    return load(config_file())
