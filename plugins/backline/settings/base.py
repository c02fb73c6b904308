"""What a section of backline.toml is, and the register of all sections."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict

LIBRARY = Path(__file__).resolve().parents[1]
_registered: dict[str, type[Section]] = {}


class Section(BaseModel):
    """A table of backline.toml: immutable, and an unknown key is an error."""

    # Deferred, because every process imports all sections: a validator is built when it is first used.
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)


SectionT = TypeVar("SectionT", bound=Section)


def register(name: str) -> Callable[[type[SectionT]], type[SectionT]]:
    """Class decorator: this model is the section `[name]`. It stands in `settings.py` of the folder whose code it is for."""

    def decorate(model: type[SectionT]) -> type[SectionT]:
        _registered[name] = model
        return model

    return decorate


@cache
def registered_sections() -> Mapping[str, type[Section]]:
    """All registered sections by name: every `settings.py` of the library's folders is imported."""
    for path in sorted(LIBRARY.glob("*/settings.py")):
        import_module(f"backline.{path.parent.name}.settings")
    return dict(_registered)


def section_name(model: type[Section]) -> str:
    """The name under which a section is registered."""
    return next(name for name, registered in registered_sections().items() if registered is model)


def format_error(error: Any, section: str = "") -> str:
    """One of pydantic's errors, with the setting's full name and what is wrong with it."""
    key = ".".join(str(part) for part in (section, *error["loc"]) if part not in ("", "overrides"))
    if error["type"] == "extra_forbidden":
        return f"{key}: unknown setting; remove it or check its spelling (all settings: include/config/backline.toml)"
    return f"{key}: {error['msg'][0].lower()}{error['msg'][1:]}"
