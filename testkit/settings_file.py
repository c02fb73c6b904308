"""Adds new settings to include/config/backline.toml, for `./backline generate`: with their defaults, explained by their descriptions."""

from __future__ import annotations

import json
import sys
import textwrap
import tomllib
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path

from pydantic.fields import FieldInfo

from backline.errors import Misconfigured
from backline.settings import ROOT, Section
from backline.settings.base import LIBRARY, REGISTERED, find_job_section, registered_sections

OUTPUT_FILE = ROOT / "include" / "config" / "backline.toml"
_LINE_LENGTH = 128


def all_sections() -> Mapping[str, type[Section]]:
    """Every section by its name: those of `settings.py` files, and those that jobs register for themselves."""
    for path in LIBRARY.glob("*/*.py"):
        if module := find_job_section(path.stem):
            import_module(module)
    return {**registered_sections(), **REGISTERED}


def add_missing(text: str, sections: Mapping[str, type[Section]]) -> str:
    """The file's text with the settings that it lacks; what it has stays as it is.

    Misconfigured names a new setting without a description, or whose default is a table: such a one is written by hand.
    """
    for name, section in sections.items():
        present = tomllib.loads(text).get(name)
        missing = {key: field for key, field in section.model_fields.items() if key not in (present or {})}
        if present is None:
            text += f"\n# {(section.__doc__ or name).strip().splitlines()[0]}\n[{name}]\n"
        if missing:
            lines = text.splitlines()
            end = _end_of_table(name, lines)
            lines[end:end] = [line for key, field in missing.items() for line in _render(name, key, field)]
            text = "\n".join(lines) + "\n"
    return text


def _end_of_table(name: str, lines: list[str]) -> int:
    """Index after the last setting of the table."""
    start = next((index for index, line in enumerate(lines) if line.startswith(f"[{name}]")), None)
    if start is None:
        raise Misconfigured(f"include/config/backline.toml has no line [{name}]; add it above the settings of {name}")
    following = (index for index in range(start + 1, len(lines)) if lines[index].startswith("["))
    end = next(following, len(lines))
    while end > start + 1 and (not lines[end - 1].strip() or lines[end - 1].startswith("#")):
        end -= 1
    return end


def _render(section: str, key: str, field: FieldInfo) -> list[str]:
    default = field.get_default(call_default_factory=True)
    if not field.description or not isinstance(default, str | int | float | list | tuple):
        fix = (
            "give its Field a description"
            if not field.description
            else "write it into the file by hand, with a comment"
        )
        raise Misconfigured(f"{section}.{key} is not in include/config/backline.toml: {fix}")
    comment = textwrap.wrap(field.description, _LINE_LENGTH, initial_indent="# ", subsequent_indent="# ")
    return [*comment, f"{key} = {json.dumps(default, ensure_ascii=False)}"]


def main(path: Path = OUTPUT_FILE) -> None:
    """Write the file, or end with the reason why not."""
    try:
        path.write_text(add_missing(path.read_text(encoding="utf-8"), all_sections()), encoding="utf-8")
    except Misconfigured as exc:
        sys.exit(f"backline: {exc}")


if __name__ == "__main__":
    main()
