"""An emulator of Twilio's message API (2010-04-01)."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from sandbox.gateways.gateway import Gateway
from sandbox.mail.handlers import read_body
from sandbox.mail.security import basic_credentials

ACCOUNT, TOKEN = "ACsandbox", "sandbox"
_E164 = re.compile(r"\+[1-9]\d{6,14}")
_GSM_CHARACTERS = re.compile(
    "[@£$¥èéùìòÇ\n\rØøÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,\\-./0-9:;<=>?¡A-ZÄÖÑÜ§¿a-zäöñüà\f^{}\\\\\\[~\\]|€]*"
)
_ERROR_URL = "https://www.twilio.com/docs/errors/"


class SmsGateway(Gateway):
    """Accepts text messages and validates them as Twilio does."""

    name = "sms"
    title = "SMS"
    example = "./backline send sms --to +4915112345678 --set body=Hello"
    presets: Mapping[str, Mapping[str, Any]] = {
        "busy": {
            "status": 429,
            "retry_after": 5,
            "body": {"code": 20429, "message": "Too Many Requests", "status": 429},
        },
        "down": {"status": 503, "body": "Service Unavailable"},
        "refused": {
            "status": 400,
            "body": {"code": 21610, "message": "Attempt to send to unsubscribed recipient", "status": 400},
        },
        "slow": {"action": "slow", "seconds": 2.0},
        "drop": {"action": "drop"},
        "drop after": {"action": "drop", "after": True},
    }

    def routes(self) -> list[BaseRoute]:
        """The common routes and the provider's API."""
        path = "/sms/2010-04-01/Accounts/{account}/Messages.json"
        return [*super().routes(), Route(path, self.send_message, methods=["POST"])]

    async def send_message(self, request: Request) -> Response:
        """Accept a message."""
        account = request.path_params["account"]
        if basic_credentials(request) != (ACCOUNT, TOKEN) or account != ACCOUNT:
            return _error_response(401, 20003, "Authenticate")
        form = dict(parse_qsl((await read_body(request)).decode("utf-8", "replace"), keep_blank_values=True))
        to, body = form.get("To", ""), form.get("Body", "")
        if not _E164.fullmatch(to):
            return _error_response(400, 21211, f"The 'To' number {to} is not a valid phone number.")
        if not form.get("From") and not form.get("MessagingServiceSid"):
            return _error_response(400, 21603, "A 'From' phone number is required.")
        if not body.strip():
            return _error_response(400, 21602, "Message body is required.")
        if len(body) > 1600:
            return _error_response(400, 21617, "The concatenated message body exceeds the 1600 character limit.")

        def store() -> Response:
            resource = {
                "sid": f"SM{secrets.token_hex(16)}",
                "account_sid": account,
                "to": to,
                "from": form.get("From"),
                "messaging_service_sid": form.get("MessagingServiceSid"),
                "body": body,
                "status": "queued",
                "num_segments": str(_segment_count(body)),
                "error_code": None,
                "error_message": None,
            }
            other = {name: value for name, value in form.items() if name not in {"To", "Body"}}
            self.inbox.add(to, "", body, {"sid": resource["sid"], "segments": _segment_count(body), "form": other})
            return JSONResponse(resource, 201)

        return await self.accept(to, store)


def _error_response(status: int, code: int, message: str) -> Response:
    return JSONResponse(
        {"code": code, "message": message, "more_info": f"{_ERROR_URL}{code}", "status": status}, status
    )


def _segment_count(body: str) -> int:
    """How many segments are billed; ignores that a character cannot be split between two segments."""
    if _GSM_CHARACTERS.fullmatch(body):
        units, single, part = len(body) + sum(char in "\f^{}\\[~]|€" for char in body), 160, 153
    else:
        units, single, part = len(body.encode("utf-16-le")) // 2, 70, 67
    return 1 if units <= single else -(-units // part)
