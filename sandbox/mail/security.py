"""Protects readers of mail in a browser against other sites and against the mail itself."""

from __future__ import annotations

import base64
import binascii
import hmac

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_SECURITY_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; style-src 'self' 'unsafe-inline'; img-src data:; form-action 'self'; "
        "base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}


_OPEN_PATHS = frozenset({"/livez", "/push/token"})
_PROVIDER_FOLDERS = ("/sms/2010-04-01/", "/push/v1/", "/stripe/v1/", "/razorpay/v1/", "/webhooks/in/")
"""Where providers take requests: they have their own keys, or accept anything as a receiver does, and show no messages."""


class LoginMiddleware:
    """Asks for a password (Basic authentication, any user name), except for providers' own paths and liveness."""

    def __init__(self, app: ASGIApp, password: str) -> None:
        self._app = app
        self._password = password.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 401."""
        is_open = scope["type"] != "http" or scope["path"] in _OPEN_PATHS or scope["path"].startswith(_PROVIDER_FOLDERS)
        if not is_open:
            given = basic_credentials(Request(scope))
            if given is None or not hmac.compare_digest(given[1].encode(), self._password):
                challenge = {"www-authenticate": 'Basic realm="sandbox", charset="UTF-8"'}
                text = "Log in as user sandbox; `./backline env` shows the password: BACKLINE_SANDBOX_PASSWORD.\n"
                await Response(text, 401, challenge, "text/plain")(scope, receive, send)
                return
        await self._app(scope, receive, send)


def basic_credentials(request: Request) -> tuple[str, str] | None:
    """User and password of the header Authorization (RFC 7617); None without any."""
    kind, _, encoded = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "basic":
        return None
    try:
        user, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return None
    return user, password


class SecurityHeadersMiddleware:
    """Adds the security headers that a response does not set itself."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on and add the headers to the response."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                present = {name for name, _ in message["headers"]}
                extra = ((name.encode(), value.encode()) for name, value in _SECURITY_HEADERS.items())
                message["headers"] = [*message["headers"], *(pair for pair in extra if pair[0] not in present)]
            await send(message)

        await self._app(scope, receive, send_with_headers)


class SameOriginMiddleware:
    """Rejects changes requested by a page of another origin; programs, which send no Origin, are allowed."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 403."""
        if scope["type"] == "http" and scope["method"] not in ("GET", "HEAD", "OPTIONS"):
            headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
            own = f"http://{headers.get(b'host', '')}"
            foreign_site = headers.get(b"sec-fetch-site", "none") not in ("none", "same-origin")
            if headers.get(b"origin", own) != own or foreign_site:
                await JSONResponse({"detail": "This request came from another site."}, 403)(scope, receive, send)
                return
        await self._app(scope, receive, send)
