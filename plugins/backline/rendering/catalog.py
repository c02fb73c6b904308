"""Finds templates: `include/templates/<channel>/<language>/<name>/`."""

from __future__ import annotations

import re
from functools import lru_cache
from pathlib import Path

from backline.errors import InvalidInput
from backline.rendering.settings import TemplateSettings
from backline.settings import ROOT, settings

TEMPLATE_FOLDER = ROOT / "include" / "templates"
TEMPLATE_NAME = re.compile(r"[a-z][a-z0-9_]*")
CONSTANTS = frozenset({"product_name", "product_url", "support_email", "language", "locale", "labels"})
"""Names that every template has, so that a context cannot have them."""


@lru_cache(maxsize=8)
def templates(channel: str, folder: Path = TEMPLATE_FOLDER) -> dict[str, tuple[str, ...]]:
    """Template names with the languages of each, both sorted."""
    found: dict[str, list[str]] = {}
    for template in sorted((folder / channel).glob("*/*/")):
        if TEMPLATE_NAME.fullmatch(template.name):
            found.setdefault(template.name, []).append(template.parent.name)
    return {name: tuple(found[name]) for name in sorted(found)}


def require_template(channel: str, name: str) -> None:
    """Raise InvalidInput for the field `template`, listing the known ones, if there is none of that name."""
    if name not in (known := templates(channel)):
        raise InvalidInput("template", f"there is no {channel} template {name!r}; known templates: {', '.join(known)}")


def resolve_language(channel: str, name: str, wanted: str | None) -> str:
    """The wanted language, else without its region, else the default; InvalidInput for `template` if it has none of them."""
    require_template(channel, name)
    available = templates(channel)[name]
    for language in (wanted, wanted and wanted.split("-")[0], settings().section(TemplateSettings).language):
        if language in available:
            return language
    problem = f"{name!r} exists in {', '.join(available)}, but not in {wanted or 'the default language'}"
    raise InvalidInput("template", problem)
