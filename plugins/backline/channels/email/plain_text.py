"""Creates a readable text part for an email that has only an HTML part."""

from __future__ import annotations

import re
from html.parser import HTMLParser

_HIDDEN = frozenset({"head", "style", "script", "title", "template"})
_PARAGRAPH = frozenset({"p", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "table", "blockquote", "pre", "hr"})
_LINE = frozenset({"br", "div", "tr", "li", "section", "article", "header", "footer"})


def html_to_text(html: str) -> str:
    """The text of an HTML document, with link targets after their text and dashes before list items."""
    reader = _TextExtractor()
    reader.feed(html)
    reader.close()
    lines = [" ".join(line.split()) for line in "".join(reader.pieces).split("\n")]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


class _TextExtractor(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.pieces: list[str] = []
        self._hidden = 0
        self._links: list[tuple[str, int]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _HIDDEN:
            self._hidden += 1
        elif tag in _PARAGRAPH:
            self.pieces.append("\n\n")
        elif tag in _LINE:
            self.pieces.append("\n- " if tag == "li" else "\n")
        elif tag in {"td", "th"}:
            self.pieces.append(" ")
        elif tag == "a":
            self._links.append((dict(attrs).get("href") or "", len(self.pieces)))
        elif tag == "img" and (alternative := dict(attrs).get("alt")):
            self.pieces.append(alternative)

    def handle_endtag(self, tag: str) -> None:
        if tag in _HIDDEN:
            self._hidden = max(0, self._hidden - 1)
        elif tag in _PARAGRAPH:
            self.pieces.append("\n\n")
        elif tag in _LINE and tag != "br":
            self.pieces.append("\n")
        elif tag == "a" and self._links:
            target, start = self._links.pop()
            label = "".join(self.pieces[start:]).strip()
            if target and not target.startswith("#") and target.removeprefix("mailto:") != label:
                self.pieces.append(f" ({target})" if label else target)

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            # Line breaks in the source have no meaning in HTML.
            self.pieces.append(re.sub(r"\s+", " ", data))
