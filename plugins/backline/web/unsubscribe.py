"""Opting out by an email's link, whose token is the proof (RFC 8058); a GET changes nothing: link scanners follow links."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, get_args
from urllib.parse import parse_qs

from fastapi import Request, Response
from fastapi.responses import HTMLResponse

from backline.encryption import encryptor
from backline.preferences.repository import OptOutAction, apply_link_action, opt_out_status
from backline.preferences.settings import PreferenceSettings
from backline.preferences.unsubscribe import Subscription, read_token
from backline.rendering.html import create_html_environment
from backline.rendering.settings import TemplateSettings
from backline.settings import ROOT, settings
from backline.web.bodies import Body, checked_router
from backline.web.database import Database
from backline.web.roles import public_route

if TYPE_CHECKING:
    from jinja2 import Environment

router = checked_router(prefix="/unsubscribe", tags=["unsubscribe"], default_response_class=HTMLResponse)

PAGE_FOLDER = ROOT / "include" / "templates" / "pages"
_FORM = {"content": {"application/x-www-form-urlencoded": {"schema": {
    "type": "object", "properties": {"action": {"type": "string", "enum": list(get_args(OptOutAction))}},
}}}}  # fmt: skip
_NOT_FOUND = {"404": {"description": "The link is not valid", "content": {"text/html": {"schema": {"type": "string"}}}}}
SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "Referrer-Policy": "no-referrer",  # the page's URL contains the token
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
}


@router.get("/{token}", **public_route("Asks whether to opt out of a topic", responses=_NOT_FOUND))
def show_page(request: Request, database: Database, token: str) -> Response:
    """A page with the buttons to opt out; changes nothing."""
    return _respond(request, database, token, None)


@router.post(
    "/{token}",
    **public_route("Opts out of a topic or of everything, or in again", requestBody=_FORM, responses=_NOT_FOUND),
)
def submit(request: Request, database: Database, token: str, body: Body) -> Response:
    """By the form field `action`; a body without it, such as a mail program's, opts out of the topic."""
    posted = parse_qs(body.decode("utf-8", "replace")).get("action", [""])[0]
    action: OptOutAction = next((known for known in get_args(OptOutAction) if known == posted), "opted_out")
    return _respond(request, database, token, action)


def _respond(request: Request, database: Database, token: str, action: OptOutAction | None) -> Response:
    if (subscription := read_token(token, encryptor())) is None:
        return _page(request, "invalid_link", status=404)
    with database.transaction() as connection:
        if action is not None:
            apply_link_action(connection, subscription, action)
        status = opt_out_status(connection, subscription)
    state = "opted_out_all" if status["opted_out_all"] else "opted_out" if status["opted_out"] else "subscribed"
    return _page(request, state, subscription, opted_in_again=action == "opted_in")


def _page(
    request: Request,
    state: str,
    subscription: Subscription | None = None,
    *,
    status: int = 200,
    opted_in_again: bool = False,
) -> Response:
    config, topics = settings().section(TemplateSettings), settings().section(PreferenceSettings).topics
    language = _negotiate_language(request.headers.get("accept-language", ""), config.language)
    html = _templates().get_template(f"{language}/unsubscribe.html").render(
        language=language, state=state, opted_in_again=opted_in_again, product_name=config.product_name,
        support_email=config.support_email, address=_mask_address(subscription.address) if subscription else "",
        topic=topics.get(subscription.topic, subscription.topic) if subscription else "",
    )  # fmt: skip
    return HTMLResponse(html, status, SECURITY_HEADERS)


def _mask_address(address: str) -> str:
    """Enough for its owner to recognize it; an email, and with it the link, may have been forwarded."""
    local, at, domain = address.rpartition("@")
    return f"{local[:1]}…@{domain}" if at else f"…{address[-3:]}"


def _negotiate_language(accept_language: str, default: str) -> str:
    from babel import negotiate_locale

    known = [path.parent.name for path in PAGE_FOLDER.glob("*/unsubscribe.html")]
    wanted = [part.partition(";")[0].strip() for part in accept_language.split(",")]
    return negotiate_locale([*wanted, default], known, sep="-") or "en"


@lru_cache(maxsize=1)
def _templates() -> Environment:
    return create_html_environment(PAGE_FOLDER)
