"""The SMS channel, for gateways with Twilio's API ("Messages resource", "Errors and Warnings dictionary")."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import quote, urlencode

from backline.channels.base import Message, Receipt, attempt_timeout, truncate
from backline.channels.http import UNKNOWN_OUTCOME, HttpGateway, HttpRequest, HttpResponse, HttpSession
from backline.channels.recipients import parse_phone_number
from backline.channels.sms.limits import check_length
from backline.channels.sms.settings import SmsSettings
from backline.errors import BacklineError, Misconfigured, RateLimited, Rejected, UnknownFailure

_MESSAGING_SERVICE = re.compile(r"MG[0-9a-f]{32}")
_SENDER = re.compile(r"\+[1-9][0-9]{6,14}|[0-9]{3,8}|(?=[A-Za-z0-9 ]{0,10}[A-Za-z])[A-Za-z0-9 ]{1,11}")
"""A number, a short code, or a name."""
_FAILED_STATUSES = frozenset({"failed", "undelivered", "canceled"})
"""States of a message that the gateway accepted and gave up immediately."""
_ERROR_CLASSES: dict[int, type[BacklineError]] = {
    14107: RateLimited,  # too many messages of this sender
    20429: RateLimited,  # too many requests
    21611: RateLimited,  # the sender's queue is full
    21610: Rejected,  # the recipient has replied STOP
    21408: Rejected,  # sending to that country is not enabled: 403, although our credentials are valid
}
"""By the gateway's own code, where it is more specific than the status."""


class SmsChannel:
    """Channel of `HttpRequest`s; `render` turns a message into its text."""

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
        """Render and check the text; raises InvalidInput, naming the field, if it cannot be sent."""
        number = parse_phone_number(message.recipient, "to")
        text = self._render(message)
        check_length(text, self._settings.max_segments)
        body = urlencode({"To": number, **self._sender_params, "Body": text}).encode()
        seconds = attempt_timeout(self._settings.timeout_seconds, message.attempt)
        return HttpRequest("POST", self._url, self._headers, body, seconds)

    def session(self) -> SmsSession:
        """A new session, not yet connected."""
        return SmsSession(self._gateway)


class SmsSession:
    """One persistent connection to the gateway."""

    def __init__(self, gateway: HttpGateway) -> None:
        self._server = str(gateway)
        self._http = HttpSession(verify_tls=gateway.verify_tls, proxy=gateway.proxy)

    async def send(self, prepared: HttpRequest) -> Receipt:
        """Send one message. The gateway has no idempotency keys: the error says if it may have accepted the message."""
        return parse_response(await self._http.exchange(prepared), self._server)

    async def close(self) -> None:
        """Close the connection; never raises."""
        await self._http.close()


def parse_response(response: HttpResponse, server: str) -> Receipt:
    """The gateway's confirmation; raises the error for any other response."""
    found, status_code = response.json_object(), str(response.status)
    if not 200 <= response.status < 300:
        code, message = found.get("code"), found.get("message")
        detail = f"{message} (code {code})" if code and message else ""
        error_class = _ERROR_CLASSES.get(code) if isinstance(code, int) else None
        raise response.error(server, detail=detail, error_class=error_class)
    sid, status = found.get("sid"), found.get("status")
    if not isinstance(sid, str) or not isinstance(status, str):
        text = f"{server} answered {status_code} without a message sid and status{UNKNOWN_OUTCOME}"
        raise UnknownFailure(text, code=status_code, response=truncate(response.body))
    if status in _FAILED_STATUSES or found.get("error_code"):
        detail = f"{status}: {found.get('error_message') or 'no reason given'} (code {found.get('error_code')})"
        raise Rejected(
            f"{server} accepted the message as {sid} and gave it up: {detail}", code=status_code, response=detail
        )
    number = found.get("num_segments")
    count = f"{number} segment{'' if str(number) == '1' else 's'}" if number else "number of segments unknown"
    return Receipt(status_code, f"{status}, {count}", sid)


def _sender_params(text: str) -> dict[str, str]:
    if _MESSAGING_SERVICE.fullmatch(text):
        return {"MessagingServiceSid": text}
    if _SENDER.fullmatch(text):
        return {"From": text}
    raise Misconfigured(
        f"sms.sender: {text!r} must be a number like +15005550006, a short code, a name of at most 11 letters and digits, "
        "or a messaging service (MG...) (in backline.toml, or in the connection's extra)"
    )
