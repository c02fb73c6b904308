"""Leaving a topic by the link in a mail. The token in it is the only proof: a POST acts without cookie, a GET only asks.

Mail programs and link scanners follow links by GET, so that changes nothing; RFC 8058 section 3.2 has the button of a mail
program POST `List-Unsubscribe=One-Click`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Any, get_args
from urllib.parse import parse_qs

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import HTMLResponse

from backline.preferences.records import Act, by_link, left
from backline.preferences.unsubscribe import Subscription, read
from backline.settings import ROOT, settings
from backline.web.database import Connections, connections, sealer
from backline.web.hooks import Body
from backline.web.roles import public

router = APIRouter(prefix="/unsubscribe", tags=["unsubscribe"], default_response_class=HTMLResponse)

FOLDER = ROOT / "include" / "templates" / "pages"
Database = Annotated[Connections, Depends(connections)]
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "Referrer-Policy": "no-referrer",  # the address of the page is the token
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
}


@router.get("/{token}", response_model=None, summary="Asks whether to leave a topic", **public())
def ask(request: Request, database: Database, token: str) -> Response:
    """Changes nothing: a page with the buttons that do."""
    if (found := read(token, sealer(request))) is None:
        return _page(request, "broken", status=404)
    with database.transaction() as connection:
        stands = left(connection, found)
    return _page(request, _state(stands), found)


@router.post("/{token}", response_model=None, summary="Leaves a topic, everything, or comes back", **public())
def act(request: Request, database: Database, token: str, body: Body) -> Response:
    """By the form's `act`; one click of a mail program leaves the topic, in whatever form it comes."""
    if (found := read(token, sealer(request))) is None:
        return _page(request, "broken", status=404)
    wanted = _wanted(body)
    with database.transaction() as connection:
        by_link(connection, found, wanted)
        stands = left(connection, found)
    return _page(request, _state(stands), found, back=wanted == "came back")


def _wanted(body: bytes) -> Act:
    said = parse_qs(body.decode("utf-8", "replace")).get("act", [""])[0]
    return next((known for known in get_args(Act) if known == said), "left")


def _state(stands: Any) -> str:
    return "left everything" if stands["left everything"] else "left" if stands["left"] else "asked"


def _page(
    request: Request, state: str, found: Subscription | None = None, *, status: int = 200, back: bool = False
) -> Response:
    config = settings()
    language = _language(request.headers.get("accept-language", ""), config.templates.language)
    html = _templates().get_template(f"{language}/unsubscribe.html").render(
        language=language, state=state, back=back, product_name=config.templates.product_name,
        support_email=config.templates.support_email, address=_masked(found.address) if found else "",
        topic=config.preferences.topics.get(found.topic, found.topic) if found else "",
    )  # fmt: skip
    return HTMLResponse(html, status, HEADERS)


def _masked(address: str) -> str:
    """Enough for its owner to know it by: a mail may have been passed on, its link with it."""
    local, at, domain = address.rpartition("@")
    return f"{local[:1]}…@{domain}" if at else f"…{address[-3:]}"


def _language(accepted: str, otherwise: str) -> str:
    """The first language that the browser asks for and the page is there in."""
    known = [path.parent.name for path in FOLDER.glob("*/unsubscribe.html")]
    for part in accepted.split(","):
        language = part.partition(";")[0].strip().lower()
        for name in (language, language.partition("-")[0]):
            if name in known:
                return name
    return otherwise if otherwise in known else "en"


@lru_cache(maxsize=1)
def _templates() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
