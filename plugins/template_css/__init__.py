"""Inlines CSS into the tags of Jinja templates when they are loaded, because Outlook and, in part, Gmail ignore style sheets.

Knows nothing of Backline. css_inline does the work, on the template instead of on each email: `bench libraries` compares both.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import zip_longest
from pathlib import Path

import css_inline
from jinja2 import Environment, FileSystemLoader

_TOKEN = re.compile(
    r"(?P<jinja_comment>\{#.*?#\})|(?P<expression>\{\{.*?\}\})|(?P<statement>\{%.*?%\})"
    r"|(?P<comment_open><!--)|(?P<comment_close>-->)|(?P<tag_open><[A-Za-z/!])|(?P<tag_close>>)",
    re.DOTALL,
)
_PLACEHOLDER = re.compile(r"<!--jinja(\d+)mark-->|jinja(\d+)mark")
_PART = re.compile(rf"<([A-Za-z][A-Za-z0-9]*)|{_PLACEHOLDER.pattern}")


def inline_css(source: str, css: str) -> str:
    """The source with the rules of `css` in its tags; ValueError if an HTML parser would move Jinja tags."""
    marked, tags = _replace_jinja_tags(source)
    if "<html" in source:
        inliner = css_inline.CSSInliner(
            keep_style_tags=True, inline_style_tags=False, load_remote_stylesheets=False, extra_css=css
        )
        inlined = inliner.inline(marked)
    else:
        inlined = css_inline.CSSInliner(load_remote_stylesheets=False).inline_fragment(marked, css)
    before, after = _tag_sequence(marked), _tag_sequence(inlined)
    if before != after:
        first = next(part for part, other in zip_longest(before, after) if part != other)
        raise ValueError(
            "an HTML parser would move or remove content at or shortly after "
            f"{tags[first] if isinstance(first, int) else f'<{first}>'}; inside a table put text and Jinja tags into cells "
            "or between rows, and write <tbody> yourself"
        )
    return _PLACEHOLDER.sub(lambda match: tags[int(match[1] or match[2])], inlined)


def _tag_sequence(html: str) -> list[int | str]:
    """The numbers of the Jinja tags among the names of the HTML start tags: a parser must not change their order."""
    return [match[1].lower() if match[1] else int(match[2] or match[3]) for match in _PART.finditer(html)]


def _replace_jinja_tags(source: str) -> tuple[str, list[str]]:
    tags: list[str] = []
    inside = ""

    def mark(match: re.Match[str]) -> str:
        nonlocal inside
        kind, text = match.lastgroup, match[0]
        if kind == "jinja_comment":
            return ""
        if kind in {"expression", "statement"}:
            tags.append(text)
            plain = f"jinja{len(tags) - 1}mark"
            # A comment is allowed between table rows or before the doctype; plain text is not.
            return plain if inside or kind == "expression" else f"<!--{plain}-->"
        if not inside and kind in {"comment_open", "tag_open"}:
            inside = "comment" if kind == "comment_open" else "tag"
        elif (inside, kind) in {("comment", "comment_close"), ("tag", "tag_close")}:
            inside = ""
        return text

    return _TOKEN.sub(mark, source), tags


class InliningLoader(FileSystemLoader):
    """Loads templates from a folder; inlines its `style.css` into those that end in .html."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._css = (folder / "style.css").read_text(encoding="utf-8")

    def get_source(self, environment: Environment, template: str) -> tuple[str, str, Callable[[], bool]]:
        """As `FileSystemLoader.get_source`."""
        source, filename, fresh = super().get_source(environment, template)
        return (inline_css(source, self._css) if template.endswith(".html") else source), filename, fresh
