"""An emulator of FCM's HTTP v1 API and of its OAuth token server."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

import jwt
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from sandbox.gateways.gateway import Gateway, RenderPage
from sandbox.mail.handlers import read_body

GRANT_TYPE = "urn:ietf:params:oauth:grant-type:jwt-bearer"
SCOPE = "https://www.googleapis.com/auth/firebase.messaging"
TOKEN_LIFETIME_SECONDS = 3600
_FCM_ERROR_TYPE = "type.googleapis.com/google.firebase.fcm.v1.FcmError"


def error_body(status: int, name: str, message: str, code: str = "") -> dict[str, Any]:
    """An error in the API's format; `code` is FCM's error code."""
    details = [{"@type": _FCM_ERROR_TYPE, "errorCode": code}] if code else []
    return {"error": {"code": status, "message": message, "status": name, "details": details}}


class PushGateway(Gateway):
    """Accepts notifications and validates them as FCM does."""

    name = "push"
    title = "Push"
    example = "./backline send push --to DEVICE-TOKEN --set title=Hello --set body=Hi"
    presets: Mapping[str, Mapping[str, Any]] = {
        "gone": {
            "status": 404,
            "body": error_body(404, "NOT_FOUND", "Requested entity was not found.", "UNREGISTERED"),
        },
        "busy": {
            "status": 429,
            "retry_after": 5,
            "body": error_body(429, "RESOURCE_EXHAUSTED", "Quota exceeded.", "QUOTA_EXCEEDED"),
        },
        "down": {"status": 503, "body": error_body(503, "UNAVAILABLE", "The service is unavailable.", "UNAVAILABLE")},
        "refused": {"status": 400, "body": error_body(400, "INVALID_ARGUMENT", "Bad argument.", "INVALID_ARGUMENT")},
        "slow": {"action": "slow", "seconds": 2.0},
        "drop": {"action": "drop"},
        "drop after": {"action": "drop", "after": True},
    }

    def __init__(self, render_page: RenderPage) -> None:
        super().__init__(render_page)
        self.issued_tokens: dict[str, float] = {}
        """Access tokens with their expiry (monotonic clock)."""

    def routes(self) -> list[BaseRoute]:
        """The common routes and the provider's API."""
        return [
            *super().routes(),
            Route("/push/token", self.issue_token, methods=["POST"]),
            Route("/push/tokens", self.revoke_tokens, methods=["DELETE"]),
            Route("/push/v1/projects/{project}/messages:send", self.send_message, methods=["POST"]),
        ]

    async def issue_token(self, request: Request) -> Response:
        """Issue an access token for a complete assertion; the signature is not verified."""
        form = dict(parse_qsl((await read_body(request)).decode("utf-8", "replace")))
        if form.get("grant_type") != GRANT_TYPE:
            return JSONResponse({"error": "unsupported_grant_type", "error_description": f"use {GRANT_TYPE}"}, 400)
        try:
            assertion = form.get("assertion", "")
            claims = jwt.decode(assertion, options={"verify_signature": False, "verify_exp": True, "verify_aud": False})
            algorithm = jwt.get_unverified_header(assertion).get("alg")
        except jwt.InvalidTokenError as exc:
            return JSONResponse({"error": "invalid_grant", "error_description": str(exc)}, 400)
        if algorithm != "RS256" or claims.get("scope") != SCOPE or not claims.get("iss") or "exp" not in claims:
            return JSONResponse({"error": "invalid_grant", "error_description": "needs RS256, iss, scope and exp"}, 400)
        token = f"ya29.sandbox-{secrets.token_urlsafe(24)}"
        self.issued_tokens[token] = time.monotonic() + TOKEN_LIFETIME_SECONDS
        return JSONResponse({"access_token": token, "expires_in": TOKEN_LIFETIME_SECONDS, "token_type": "Bearer"})

    async def revoke_tokens(self, _request: Request) -> Response:
        """Revoke all access tokens, as after a service account's key rotation."""
        revoked = len(self.issued_tokens)
        self.issued_tokens.clear()
        return JSONResponse({"revoked": revoked})

    async def send_message(self, request: Request) -> Response:
        """Accept a message to one device."""
        kind, _, token = request.headers.get("authorization", "").partition(" ")
        if kind.lower() != "bearer" or self.issued_tokens.get(token, 0.0) < time.monotonic():
            return JSONResponse(
                error_body(401, "UNAUTHENTICATED", "Request had invalid authentication credentials."), 401
            )
        try:
            message = json.loads(await read_body(request))["message"]
            device, notification = message["token"], message["notification"]
            title, body = notification["title"], notification["body"]
        except (ValueError, KeyError, TypeError):
            return JSONResponse(error_body(400, "INVALID_ARGUMENT", "No message with token and notification."), 400)
        if not isinstance(device, str) or not device or not all(isinstance(one, str) for one in (title, body)):
            return JSONResponse(error_body(400, "INVALID_ARGUMENT", "Token, title and body must be strings."), 400)
        if any(not isinstance(value, str) for value in message.get("data", {}).values()):
            return JSONResponse(
                error_body(400, "INVALID_ARGUMENT", "Invalid value at 'message.data'.", "INVALID_ARGUMENT"), 400
            )

        def store() -> Response:
            name = f"projects/{request.path_params['project']}/messages/{secrets.token_hex(12)}"
            options = {key: value for key, value in message.items() if key not in {"token", "notification"}}
            self.inbox.add(device, title, body, {"name": name, "message": options})
            return JSONResponse({"name": name})

        return await self.accept(device, store)
