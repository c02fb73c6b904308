"""What a section of backline.toml is, and the register of all sections."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from backline.validation_errors import field_path, field_problems

LIBRARY = Path(__file__).resolve().parents[1]
_UNKNOWN_SETTING = "unknown setting; remove it or check its spelling (all settings: include/config/backline.toml)"
_registered: dict[str, type[Section]] = {}


class Section(BaseModel):
    """A table of backline.toml: immutable, and an unknown key is an error."""

    # Deferred, because every process imports all sections: a validator is built when it is first used.
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, allow_inf_nan=False)


SectionT = TypeVar("SectionT", bound=Section)


def url_with(placeholder: str, *schemes: str) -> AfterValidator:
    """Validator of a URL of the schemes (default http and https) that has the placeholder once: "order" for `{order}`."""

    def check(url: str) -> str:
        parts = urlsplit(url)
        if (
            parts.scheme not in (schemes or ("http", "https"))
            or not parts.netloc
            or url.count(f"{{{placeholder}}}") != 1
        ):
            known = " or ".join(schemes or ("http", "https"))
            raise ValueError(f"{url!r} must be a URL, {known}, with {{{placeholder}}} in it once")
        return url

    return AfterValidator(check)


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


def deep_merge(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two mappings, table by table; `overrides` takes precedence."""
    both = {**base, **overrides}
    for key in base.keys() & overrides.keys():
        if isinstance(base[key], dict) and isinstance(overrides[key], dict):
            both[key] = deep_merge(base[key], overrides[key])
    return both


def format_errors(errors: ValidationError, section: str = "") -> str:
    """pydantic's errors in one line: each setting's full name and what is wrong with it."""
    problems = field_problems(errors, unknown_field=lambda _: _UNKNOWN_SETTING)
    names = [
        field_path([p for p in (section, *problem.location) if p not in ("", "overrides")]) for problem in problems
    ]
    return "; ".join(f"{name}: {problem.text}" for name, problem in zip(names, problems, strict=True))
