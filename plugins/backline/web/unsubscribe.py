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

from backline.preferences.repository import OptOutAction, apply_link_action, opt_out_status
from backline.preferences.settings import PreferenceSettings
from backline.preferences.unsubscribe import Subscription, read_token
from backline.rendering.settings import TemplateSettings
from backline.settings import ROOT, settings
from backline.web.database import Connections, connections, encryptor
from backline.web.hooks import Body
from backline.web.roles import public

router = APIRouter(prefix="/unsubscribe", tags=["unsubscribe"], default_response_class=HTMLResponse)

PAGE_FOLDER = ROOT / "include" / "templates" / "pages"
Database = Annotated[Connections, Depends(connections)]
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "Referrer-Policy": "no-referrer",  # the address of the page is the token
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
}


@router.get("/{token}", response_model=None, summary="Asks whether to leave a topic", **public())
def show_page(request: Request, database: Database, token: str) -> Response:
    """Changes nothing: a page with the buttons that do."""
    if (found := read_token(token, encryptor(request))) is None:
        return _page(request, "broken", status=404)
    with database.transaction() as connection:
        stands = opt_out_status(connection, found)
    return _page(request, _page_state(stands), found)


@router.post("/{token}", response_model=None, summary="Leaves a topic, everything, or comes back", **public())
def submit(request: Request, database: Database, token: str, body: Body) -> Response:
    """By the form's `act`; one click of a mail program leaves the topic, in whatever form it comes."""
    if (found := read_token(token, encryptor(request))) is None:
        return _page(request, "broken", status=404)
    wanted = _parse_action(body)
    with database.transaction() as connection:
        apply_link_action(connection, found, wanted)
        stands = opt_out_status(connection, found)
    return _page(request, _page_state(stands), found, opted_in_again=wanted == "came back")


def _parse_action(body: bytes) -> OptOutAction:
    said = parse_qs(body.decode("utf-8", "replace")).get("act", [""])[0]
    return next((known for known in get_args(OptOutAction) if known == said), "left")


def _page_state(stands: Any) -> str:
    return "left everything" if stands["left everything"] else "left" if stands["left"] else "asked"


def _page(
    request: Request, state: str, found: Subscription | None = None, *, status: int = 200, opted_in_again: bool = False
) -> Response:
    config = settings()
    language = _negotiate_language(
        request.headers.get("accept-language", ""), config.section(TemplateSettings).language
    )
    html = _templates().get_template(f"{language}/unsubscribe.html").render(
        language=language, state=state, back=opted_in_again, product_name=config.section(TemplateSettings).product_name,
        support_email=config.section(TemplateSettings).support_email, address=_mask_address(found.address) if found else "",
        topic=config.section(PreferenceSettings).topics.get(found.topic, found.topic) if found else "",
    )  # fmt: skip
    return HTMLResponse(html, status, SECURITY_HEADERS)


def _mask_address(address: str) -> str:
    """Enough for its owner to know it by: a mail may have been passed on, its link with it."""
    local, at, domain = address.rpartition("@")
    return f"{local[:1]}…@{domain}" if at else f"…{address[-3:]}"


def _negotiate_language(accepted: str, otherwise: str) -> str:
    """The first language that the browser asks for and the page is there in."""
    known = [path.parent.name for path in PAGE_FOLDER.glob("*/unsubscribe.html")]
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
        loader=FileSystemLoader(PAGE_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
