"""HTML templates of papers, and PDF files of them: nothing is fetched, so the same markup gives the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from backline.rendering import formats

if TYPE_CHECKING:
    from jinja2 import Environment


def create_pdf_environment(folder: Path) -> Environment:
    """The templates of a folder, with the filters that messages have for money and days."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    names = ("money", "timestamp", "day", "rate", "country")
    made.filters |= {name: getattr(formats, name) for name in names}
    return made


def render_pdf(markup: str, variant: str) -> bytes:
    """The file; `variant` as WeasyPrint names it, such as pdf/a-3a. Pictures stand in the markup as data: URLs."""
    # Late: it is heavy, and only who makes a file pays for it.
    from weasyprint import HTML
    from weasyprint.urls import URLFetcher

    fetcher = URLFetcher(allowed_protocols=frozenset({"data"}))
    made = HTML(string=markup, url_fetcher=fetcher).write_pdf(pdf_variant=variant)
    if not isinstance(made, bytes):
        raise TypeError("weasyprint gave no bytes")
    return made
