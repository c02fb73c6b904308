"""CSS written into a template's tags once, when the template is loaded, not for every message.

Mail clients drop style sheets (Outlook, and Gmail in part), so rules must stand in each tag's `style`.
An HTML parser must not see Jinja's own tags: they are replaced by markers that HTML leaves alone,
and put back afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import css_inline
from jinja2 import BaseLoader, Environment, FileSystemLoader

from backline.errors import Misconfigured

# In the order of the alternatives: a comment or a tag of HTML (so that what Jinja writes inside is known), then Jinja's own.
_TOKEN = re.compile(
    r"(?P<jinja_comment>\{#.*?#\})|(?P<expression>\{\{.*?\}\})|(?P<statement>\{%.*?%\})"
    r"|(?P<comment_open><!--)|(?P<comment_close>-->)|(?P<tag_open><[A-Za-z/!])|(?P<tag_close>>)",
    re.DOTALL,
)
_MARK = re.compile(r"<!--jinja(\d+)mark-->|jinja(\d+)mark")


def inline(source: str, css: str, name: str) -> str:
    """The template's source with the rules of `css` in its tags; Misconfigured if Jinja tags would be moved.

    A source that begins a document (`<html`) is taken as one, anything else as a fragment.
    """
    marked, tags = _mark(source)
    if "<html" in source:
        inliner = css_inline.CSSInliner(
            keep_style_tags=True, inline_style_tags=False, load_remote_stylesheets=False, extra_css=css
        )
        inlined = inliner.inline(marked)
    else:
        inlined = css_inline.CSSInliner(load_remote_stylesheets=False).inline_fragment(marked, css)
    order = [int(match[1] or match[2]) for match in _MARK.finditer(inlined)]
    if order != list(range(len(tags))):
        wrong = next((tag for place, tag in enumerate(tags) if place >= len(order) or order[place] != place), tags[-1])
        raise Misconfigured(
            f"template {name}: HTML does not allow {wrong} where it stands; inside a table put it between "
            "<tr> or <td> tags, and write <tbody> yourself"
        )
    return _MARK.sub(lambda match: tags[int(match[1] or match[2])], inlined)


def _mark(source: str) -> tuple[str, list[str]]:
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
            # A comment may stand between table rows or before the doctype, where bare text may not.
            return plain if inside or kind == "expression" else f"<!--{plain}-->"
        if not inside and kind in {"comment_open", "tag_open"}:
            inside = "comment" if kind == "comment_open" else "tag"
        elif (inside, kind) in {("comment", "comment_close"), ("tag", "tag_close")}:
            inside = ""
        return text

    return _TOKEN.sub(mark, source), tags


class InliningLoader(BaseLoader):
    """Loads templates from a folder; those that end in .html with `style.css` of that folder inlined."""

    def __init__(self, folder: Path) -> None:
        self._files = FileSystemLoader(folder)
        self._css = (folder / "style.css").read_text(encoding="utf-8")

    def get_source(self, environment: Environment, template: str) -> tuple[str, str | None, Callable[[], bool] | None]:
        """As Jinja asks for it."""
        source, filename, fresh = self._files.get_source(environment, template)
        return (inline(source, self._css, template) if template.endswith(".html") else source), filename, fresh

    def list_templates(self) -> list[str]:
        """As Jinja asks for it."""
        return self._files.list_templates()
