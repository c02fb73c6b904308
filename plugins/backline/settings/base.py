"""What a section of backline.toml is, and the register of all sections."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from backline.errors import Misconfigured
from backline.validation_errors import field_path, field_problems

LIBRARY = Path(__file__).resolve().parents[1]
_UNKNOWN_SETTING = "unknown setting; remove it or check its spelling (all settings: include/config/backline.toml)"
REGISTERED: dict[str, type[Section]] = {}
"""What has been registered so far. A job's own section is when its module is imported."""


class Section(BaseModel):
    """A table of backline.toml: immutable, and an unknown key is an error."""

    # Deferred, because every process imports all sections: a validator is built when it is first used.
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, allow_inf_nan=False)


SectionT = TypeVar("SectionT", bound=Section)


def url_with(placeholder: str, *schemes: str) -> AfterValidator:
    """Validator of a URL of the schemes (default http and https) with the placeholder once: "order" for `{order}`; "": none."""

    def check(url: str) -> str:
        parts = urlsplit(url)
        if (
            parts.scheme not in (schemes or ("http", "https"))
            or not parts.netloc
            or url.count(f"{{{placeholder}}}") != bool(placeholder)
        ):
            known = " or ".join(schemes or ("http", "https"))
            place = f", with {{{placeholder}}} in it once" if placeholder else ""
            raise ValueError(f"{url!r} must be a URL, {known}{place}")
        return url

    return AfterValidator(check)


def register(name: str) -> Callable[[type[SectionT]], type[SectionT]]:
    """Class decorator: this model is the section `[name]`, in `settings.py` of a folder, or in the job's module of that name."""

    def decorate(model: type[SectionT]) -> type[SectionT]:
        REGISTERED[name] = model
        return model

    return decorate


@cache
def registered_sections() -> Mapping[str, type[Section]]:
    """All registered sections by name: every `settings.py` of the library's folders is imported."""
    for path in sorted((*LIBRARY.glob("*/settings.py"), *LIBRARY.glob("channels/*/settings.py"))):
        import_module(".".join(("backline", *path.relative_to(LIBRARY).with_suffix("").parts)))
    return dict(REGISTERED)


@cache
def find_job_section(name: str) -> str | None:
    """The job's module, `<folder>/<name>.py`, if by its text it registers a section of the job's name."""
    for path in LIBRARY.glob(f"*/{name}.py") if name.isidentifier() else ():
        if f'@register("{name}")' in path.read_text(encoding="utf-8"):
            return f"backline.{path.parent.name}.{name}"
    return None


def build_section(name: str, values: object) -> Section:
    """The registered section of that name from a file's values; Misconfigured names a setting that is wrong."""
    try:
        return REGISTERED[name].model_validate(values)
    except ValidationError as exc:
        raise Misconfigured(format_errors(exc, name)) from None


def deep_merge(base: Mapping[str, object], overrides: Mapping[str, object]) -> dict[str, Any]:
    """Merge two mappings, table by table; `overrides` takes precedence."""
    both = {**base, **overrides}
    for key in base.keys() & overrides.keys():
        if isinstance(inner := base[key], dict) and isinstance(changed := overrides[key], dict):
            both[key] = deep_merge(inner, changed)
    return both


def format_errors(errors: ValidationError, section: str = "") -> str:
    """pydantic's errors in one line: each setting's full name and what is wrong with it."""
    problems = field_problems(errors, unknown_field=lambda _: _UNKNOWN_SETTING)
    names = [
        field_path([p for p in (section, *problem.location) if p not in ("", "overrides")]) for problem in problems
    ]
    return "; ".join(f"{name}: {problem.text}" for name, problem in zip(names, problems, strict=True))
