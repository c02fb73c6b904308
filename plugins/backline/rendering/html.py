"""Renders HTML templates to PDF files. Nothing is fetched, so the same markup gives the same bytes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from backline.rendering import formats

if TYPE_CHECKING:
    from jinja2 import Environment

FILTERS = ("money", "timestamp", "day", "rate", "country")


def create_html_environment(folder: Path) -> Environment:
    """A Jinja environment for HTML pages and PDF documents of a folder, with the filters of `formats`."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {name: getattr(formats, name) for name in FILTERS}
    return environment


def render_pdf(markup: str, variant: str) -> bytes:
    """A PDF file; `variant` is WeasyPrint's name of it, such as pdf/a-3a. Images in the markup must be data: URLs."""
    # Imported here because it is slow to import.
    from weasyprint import HTML
    from weasyprint.urls import URLFetcher

    # Without libharfbuzz-subset WeasyPrint uses fontTools, which writes the current time into fonts unless this is set.
    os.environ.setdefault("SOURCE_DATE_EPOCH", "0")
    fetcher = URLFetcher(allowed_protocols=frozenset({"data"}))
    content = HTML(string=markup, url_fetcher=fetcher).write_pdf(pdf_variant=variant)
    if not isinstance(content, bytes):
        raise TypeError("weasyprint returned no bytes")
    return content
