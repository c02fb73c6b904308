"""The push channel: a notification is built once, and posted for each device of its recipient."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

from backline.channels.base import Message, Receipt
from backline.channels.http.gateway import HttpGateway
from backline.channels.http.session import HttpRequest, HttpResponse, HttpSession, timeout
from backline.channels.push import recipients
from backline.channels.push.content import PushContent
from backline.channels.push.devices import DeviceStore
from backline.channels.push.oauth import AccessTokenCache, ServiceAccount
from backline.channels.push.responses import DeviceUnregistered, parse_response
from backline.channels.settings import PushSettings
from backline.errors import BacklineError, InvalidInput, Rejected, RetryableError

log = logging.getLogger(__name__)

MAX_PAYLOAD_BYTES = 4096
"""Of notification and data together, as FCM takes them."""
VISIBLE_TOKEN_CHARACTERS = 12
"""Of a device's token in texts: enough to find it, too few to write to it."""


class PreparedPush(NamedTuple):
    """A notification without its device."""

    recipient: str
    """A device's token, or user:ID."""
    message: Mapping[str, Any]
    timeout: float

    def __repr__(self) -> str:
        """Without what it says."""
        return f"PreparedPush({mask_token(self.recipient)})"


class PushChannel:
    """Channel of `PreparedPush`; `render` turns a message into its content and knows the types."""

    name = "push"
    messages_per_session = 1

    def __init__(
        self,
        settings: PushSettings,
        gateway: HttpGateway,
        render: Callable[[Message], PushContent],
        devices: DeviceStore,
    ) -> None:
        self.connections = settings.connections
        self._settings = settings
        self._gateway = gateway
        self._render = render
        self._devices = devices
        account = ServiceAccount.from_gateway(gateway)
        self._url = f"{gateway.url}/v1/projects/{quote(account.project_id, safe='')}/messages:send"
        self._tokens = AccessTokenCache(account, settings.timeout_seconds)

    def prepare(self, message: Message) -> PreparedPush:
        """Render and build; raises InvalidInput, naming the field, when it cannot be built."""
        recipient = recipients.parse_push_recipient(message.recipient, "to")
        content = self._render(message)
        said = {"notification": {"title": content.title, "body": content.body}, "data": dict(content.data)}
        size = len(json.dumps(said, ensure_ascii=False).encode())
        if size > MAX_PAYLOAD_BYTES:
            raise InvalidInput(
                "data", f"title, body and data take {size} bytes; at most {MAX_PAYLOAD_BYTES} may be sent: shorten them"
            )
        if not content.data:
            del said["data"]
        built = {**said, **_platform_options(content, time.time())}
        return PreparedPush(recipient, built, timeout(self._settings.timeout_seconds, message.attempt))

    def session(self) -> PushSession:
        """A new session, not yet connected."""
        return PushSession(self._gateway, self._url, self._tokens, self._devices)


class PushSession:
    """One kept connection to the provider."""

    def __init__(self, gateway: HttpGateway, url: str, tokens: AccessTokenCache, devices: DeviceStore) -> None:
        self._server = str(gateway)
        self._url = url
        self._tokens = tokens
        self._devices = devices
        self._http = HttpSession(verify_tls=gateway.verify_tls, proxy=gateway.proxy)

    async def send(self, prepared: PreparedPush) -> Receipt:
        """Hand it over for each device; sent if one device at least has it, with the others named in the receipt.

        Devices that are gone are taken out of the app's tables. When none has it, the error is the first that may pass,
        else the last; Rejected if the person has no device.
        """
        if not prepared.recipient.startswith(recipients.USER_PREFIX):
            return await self._send_to_device(prepared, prepared.recipient)
        person = prepared.recipient.removeprefix(recipients.USER_PREFIX)
        receipts: list[Receipt] = []
        refused: list[tuple[str, BacklineError]] = []
        for token in await self._devices.list_tokens(person):
            try:
                receipts.append(await self._send_to_device(prepared, token))
            except BacklineError as exc:
                refused.append((mask_token(token), exc))
        if receipts:
            others = tuple((token, str(exc)) for token, exc in refused)
            return receipts[0]._replace(response=", ".join(one.response for one in receipts), refused_recipients=others)
        if not refused:
            raise Rejected(f"{prepared.recipient} has no device that takes push messages")
        errors = [exc for _, exc in refused]
        raise next((exc for exc in errors if isinstance(exc, RetryableError)), errors[-1])

    async def close(self) -> None:
        """Close the connection; never raises."""
        await self._http.close()
        await self._devices.close()

    async def _send_to_device(self, prepared: PreparedPush, token: str) -> Receipt:
        body = json.dumps({"message": {**prepared.message, "token": token}}, ensure_ascii=False).encode()
        try:
            return parse_response(await self._post(body, prepared.timeout), self._server)
        except DeviceUnregistered as exc:
            await self._remove_device(token)
            text = f"{exc}; the device {mask_token(token)} is gone and gets no more"
            raise Rejected(text, code=exc.code, response=exc.response) from None

    async def _post(self, body: bytes, seconds: float) -> HttpResponse:
        access = await self._tokens.get(self._http)
        answer = await self._exchange(access, body, seconds)
        if answer.status == 401:
            # It was revoked, or ended early by the provider's clock: once more with a new one.
            self._tokens.invalidate(access)
            answer = await self._exchange(await self._tokens.get(self._http), body, seconds)
        return answer

    async def _exchange(self, access: str, body: bytes, seconds: float) -> HttpResponse:
        headers = {"Authorization": f"Bearer {access}", "Content-Type": "application/json; charset=utf-8"}
        return await self._http.exchange(HttpRequest("POST", self._url, headers, body, seconds))

    async def _remove_device(self, token: str) -> None:
        try:
            await self._devices.remove(token, "the push provider says that it is gone (UNREGISTERED)")
        except BacklineError as exc:
            # The message's end must not hang on it: the next message to the device finds it gone again.
            log.warning("the device %s is gone, and could not be taken out: %s", mask_token(token), exc)


def mask_token(recipient: str) -> str:
    """A recipient as texts may hold it: a device's token cut, as who has all of it can write to the device."""
    if recipient.startswith(recipients.USER_PREFIX) or len(recipient) <= VISIBLE_TOKEN_CHARACTERS:
        return recipient
    return f"{recipient[:VISIBLE_TOKEN_CHARACTERS]}…"


def _platform_options(content: PushContent, now: float) -> dict[str, Any]:
    """Time to live and collapse key, which each platform has by another name."""
    android: dict[str, Any] = {}
    apns: dict[str, str] = {}
    webpush: dict[str, str] = {}
    if content.ttl_seconds is not None:
        android["ttl"] = f"{content.ttl_seconds}s"
        # A moment to Apple; 0 is its "now or never".
        apns["apns-expiration"] = str(int(now) + content.ttl_seconds) if content.ttl_seconds else "0"
        webpush["TTL"] = str(content.ttl_seconds)
    if content.collapse_key is not None:
        android["collapse_key"] = content.collapse_key
        apns["apns-collapse-id"] = content.collapse_key
    options: dict[str, Any] = {"android": android} if android else {}
    for platform, headers in (("apns", apns), ("webpush", webpush)):
        if headers:
            options[platform] = {"headers": headers}
    return options
