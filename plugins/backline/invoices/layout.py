"""A paper as a PDF/A-3a file (ISO 19005-3, tagged): the same paper gives the same bytes.

Nothing of the clock, of the settings or of the network goes into it. The look belongs to the paper: `layout_1.html` is
never changed, a new look is `layout_2.html`, and `LAYOUT` says which one new papers get.
"""

from __future__ import annotations

import tomllib
from functools import cache

from backline.errors import InvalidInput
from backline.invoices.papers import Paper, tax_lines
from backline.rendering.pdf import environment, pdf
from backline.settings import ROOT, settings

LAYOUT = 1
"""The layout of papers that are issued now."""
FOLDER = ROOT / "include" / "templates" / "invoices"
VARIANT = "pdf/a-3a"


def render(paper: Paper) -> bytes:
    """The PDF. InvalidInput if its layout is not there any more."""
    return pdf(markup(paper), VARIANT)


def markup(paper: Paper) -> str:
    """The HTML that the PDF is made of."""
    name = f"layout_{paper.layout}.html"
    if not (FOLDER / name).exists():
        raise InvalidInput("layout", f"{FOLDER / name} is not there; restore it: papers of that layout need it")
    template = environment(FOLDER).get_template(name)
    return template.render(
        paper=paper, taxes=tax_lines(paper.lines), words=words(paper.language), locale=paper.language
    )


def words(language: str) -> dict[str, str]:
    """The words of a paper in that language, else in the language without its country, else in `templates.language`."""
    known = _words()
    for tag in (language, language.partition("-")[0], settings().templates.language):
        if tag in known:
            return known[tag]
    return known["en"]


@cache
def _words() -> dict[str, dict[str, str]]:
    return tomllib.loads((FOLDER / "words.toml").read_text(encoding="utf-8"))
