"""The email that all sides send: its data, its template, and the peers' two ways to build it."""

from __future__ import annotations

import os
from email.message import EmailMessage
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from email.policy import compat32
from email.utils import formatdate
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Template

SENDER = "shop@example.com"
TEMPLATE_FOLDER_VARIABLE = "BENCH_TEMPLATE"
"""The folder with the email's template."""
_CRLF = compat32.clone(linesep="\r\n")


def recipient(number: int) -> str:
    """The unique recipient of email `number`."""
    return f"reader-{number}@customers.example.com"


def template_context(number: int) -> dict[str, Any]:
    """The unique content of email `number`."""
    return {
        "name": f"Reader {number}",
        "number": number,
        "day": f"{number % 28 + 1} June",
        "total": f"{number % 90 + 10}.{number % 100:02} EUR",
        "items": [
            {"count": number % 3 + 1, "title": f"Teapot no. {number % 777}", "price": f"{number % 40 + 9}.00 EUR"},
            {"count": number % 5 + 1, "title": f"Cup no. {number % 999}", "price": f"{number % 9 + 1}.50 EUR"},
        ],
    }


def render(data: dict[str, Any]) -> tuple[str, str, str]:
    """Render subject, text and HTML; the templates are compiled once per process."""
    subject, text, html = _templates()
    title = subject.render(data).strip()
    return title, text.render(data), html.render(data, subject=title)


@cache
def _templates() -> tuple[Template, Template, Template]:
    from jinja2 import Environment, FileSystemLoader, select_autoescape

    environment = Environment(
        loader=FileSystemLoader(Path(os.environ[TEMPLATE_FOLDER_VARIABLE])),
        autoescape=select_autoescape(enabled_extensions=("html",), default=False),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    subject, text, html = (environment.get_template(name) for name in ("subject.txt", "body.txt", "body.html"))
    return subject, text, html


def build_with_emailmessage(to: str, data: dict[str, Any]) -> EmailMessage:
    """Build the email in the usual way: the standard library's EmailMessage."""
    subject, text, html = render(data)
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = SENDER, to, subject
    message["Date"] = formatdate()
    message.set_content(text)
    message.add_alternative(html, subtype="html")
    return message


def build_fast(to: str, data: dict[str, Any]) -> bytes:
    """Build the email in the standard library's fastest way: email.mime with the compat32 policy. CRLF line ends."""
    subject, text, html = render(data)
    message = MIMEMultipart("alternative")
    message["From"], message["To"], message["Subject"] = SENDER, to, subject
    message["Date"] = formatdate()
    message.attach(MIMEText(text, "plain", "us-ascii"))
    message.attach(MIMEText(html, "html", "us-ascii"))
    return message.as_bytes(policy=_CRLF)
