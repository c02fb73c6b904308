"""The SMS channel: a text is rendered, counted, and posted to a gateway that speaks Twilio's message API."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import quote, urlencode

from backline.channels.base import Message, Receipt
from backline.channels.http.gateway import HttpGateway
from backline.channels.http.session import HttpRequest, HttpSession, timeout
from backline.channels.settings import SmsSettings
from backline.channels.sms import numbers, segments
from backline.channels.sms.responses import parse_response
from backline.errors import InvalidInput, Misconfigured

MAX_CHARACTERS = 1600
"""Of one message, as Twilio takes it."""
_MESSAGING_SERVICE = re.compile(r"MG[0-9a-f]{32}")
_SENDER = re.compile(r"\+[1-9][0-9]{6,14}|[0-9]{3,8}|(?=[A-Za-z0-9 ]{0,10}[A-Za-z])[A-Za-z0-9 ]{1,11}")
"""A number, a short code, or a name."""


class SmsChannel:
    """Channel of `HttpRequest`s; `render` turns a message into its text and knows the types."""

    name = "sms"
    messages_per_session = 1

    def __init__(self, settings: SmsSettings, gateway: HttpGateway, render: Callable[[Message], str]) -> None:
        self.connections = settings.connections
        self._settings = settings
        self._gateway = gateway
        self._render = render
        account = gateway.extra.get("account_sid") or gateway.login or ""
        self._url = f"{gateway.url}/2010-04-01/Accounts/{quote(str(account), safe='')}/Messages.json"
        self._headers = {
            "Authorization": gateway.basic_auth(),
            "Content-Type": "application/x-www-form-urlencoded",
            "Accept": "application/json",
        }
        self._sender_params = _sender_params(str(gateway.extra.get("sender") or settings.sender))
        if settings.status_callback:
            self._sender_params["StatusCallback"] = settings.status_callback

    def prepare(self, message: Message) -> HttpRequest:
        """Render and count; raises InvalidInput, naming the field, when it cannot be sent."""
        number = numbers.parse_phone_number(message.recipient, "to")
        text = self._render(message)
        self._check_length(text)
        return HttpRequest(
            "POST",
            self._url,
            self._headers,
            urlencode({"To": number, **self._sender_params, "Body": text}).encode(),
            timeout(self._settings.timeout_seconds, message.attempt),
        )

    def session(self) -> SmsSession:
        """A new session, not yet connected."""
        return SmsSession(self._gateway)

    def _check_length(self, text: str) -> None:
        if not text.strip():
            raise InvalidInput("body", "is empty; a text message needs at least one character")
        if len(text) > MAX_CHARACTERS:
            raise InvalidInput("body", f"has {len(text)} characters; at most {MAX_CHARACTERS} may be sent")
        counted, limit = segments.count_segments(text), self._settings.max_segments
        if counted.parts > limit:
            advice = "make it shorter"
            if dear := segments.non_gsm_characters(text):
                advice += f", or write it without {dear[:10]!r}, which more than halve what fits"
            raise InvalidInput("body", f"takes {counted.parts} segments; at most {limit} (sms.max_segments): {advice}")


class SmsSession:
    """One kept connection to the gateway."""

    def __init__(self, gateway: HttpGateway) -> None:
        self._server = str(gateway)
        self._http = HttpSession(verify_tls=gateway.verify_tls, proxy=gateway.proxy)

    async def send(self, prepared: HttpRequest) -> Receipt:
        """Hand one message over. The gateway knows no idempotency key: what it may have taken is said in the error."""
        return parse_response(await self._http.exchange(prepared), self._server)

    async def close(self) -> None:
        """Close the connection; never raises."""
        await self._http.close()


def _sender_params(text: str) -> dict[str, str]:
    """Who it is from, as the API wants it: a messaging service has a parameter of its own."""
    if _MESSAGING_SERVICE.fullmatch(text):
        return {"MessagingServiceSid": text}
    if _SENDER.fullmatch(text):
        return {"From": text}
    raise Misconfigured(
        f"sms.sender: {text!r} must be a number like +15005550006, a short code, a name of at most 11 letters and digits, "
        "or a messaging service (MG...) (in backline.toml, or in the connection's extra)"
    )
