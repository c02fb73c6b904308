"""A paper as a PDF/A-3a file (ISO 19005-3, tagged): the same paper gives the same bytes.

Nothing of the clock, of the settings or of the network goes into it. The look belongs to the paper: `layout_1.html` is
never changed, a new look is `layout_2.html`, and `CURRENT_LAYOUT` says which one new papers get.
"""

from __future__ import annotations

import tomllib
from functools import cache

from backline.errors import InvalidInput
from backline.invoices.papers import Document, tax_lines
from backline.rendering.html import create_html_environment, render_pdf
from backline.rendering.settings import TemplateSettings
from backline.settings import ROOT, settings

CURRENT_LAYOUT = 1
"""The layout of papers that are issued now."""
TEMPLATE_FOLDER = ROOT / "include" / "templates" / "invoices"
PDF_VARIANT = "pdf/a-3a"


def render_document_pdf(document: Document) -> bytes:
    """The PDF. InvalidInput if its layout is not there any more."""
    return render_pdf(render_html(document), PDF_VARIANT)


def render_html(document: Document) -> str:
    """The HTML that the PDF is made of."""
    name = f"layout_{document.layout}.html"
    if not (TEMPLATE_FOLDER / name).exists():
        raise InvalidInput(
            "layout", f"{TEMPLATE_FOLDER / name} is not there; restore it: papers of that layout need it"
        )
    template = create_html_environment(TEMPLATE_FOLDER).get_template(name)
    return template.render(
        paper=document, taxes=tax_lines(document.lines), words=labels(document.language), locale=document.language
    )


def labels(language: str) -> dict[str, str]:
    """The words of a paper in that language, else in the language without its country, else in `templates.language`."""
    known = _all_labels()
    for tag in (language, language.partition("-")[0], settings().section(TemplateSettings).language):
        if tag in known:
            return known[tag]
    return known["en"]


@cache
def _all_labels() -> dict[str, dict[str, str]]:
    return tomllib.loads((TEMPLATE_FOLDER / "words.toml").read_text(encoding="utf-8"))
