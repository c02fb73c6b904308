"""The push channel: one notification for each device (FCM's "Method: projects.messages.send" and "ErrorCode")."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple
from urllib.parse import quote

import psycopg

from backline import errors
from backline.channels.base import Message, PushContent, Receipt, attempt_timeout, truncate
from backline.channels.http import UNKNOWN_OUTCOME, HttpGateway, HttpRequest, HttpResponse, HttpSession
from backline.channels.push.oauth import AccessTokenCache, ServiceAccount
from backline.channels.recipients import USER_PREFIX, parse_push_recipient
from backline.channels.settings import PushSettings
from backline.db.connect import Database
from backline.db.statements import statement

log = logging.getLogger(__name__)

MAX_PAYLOAD_BYTES = 4096
"""Bytes of notification and data together that FCM accepts."""
VISIBLE_TOKEN_CHARACTERS = 12
"""Characters of a device token in texts: enough to find the device, too few to send to it."""
_ERROR_CLASSES: dict[str, type[errors.BacklineError]] = {
    "SENDER_ID_MISMATCH": errors.Rejected,  # 403: the device belongs to another project; our credentials are valid
    "QUOTA_EXCEEDED": errors.RateLimited,
    "THIRD_PARTY_AUTH_ERROR": errors.AuthenticationFailed,
}


class DeviceUnregistered(errors.PermanentError):
    """The device has uninstalled the app, or has a new token."""


class PreparedPush(NamedTuple):
    """A notification without its device."""

    recipient: str
    """A device token, or user:ID."""
    message: Mapping[str, Any]
    timeout: float

    def __repr__(self) -> str:
        """Without the notification."""
        return f"PreparedPush({mask_token(self.recipient)})"


class PushChannel:
    """Channel of `PreparedPush`; `render` turns a message into its content."""

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
        """Render and build the message; raises InvalidInput, naming the field, if that is impossible."""
        recipient = parse_push_recipient(message.recipient, "to")
        content = self._render(message)
        body = {"notification": {"title": content.title, "body": content.body}, "data": dict(content.data)}
        size = len(json.dumps(body, ensure_ascii=False).encode())
        if size > MAX_PAYLOAD_BYTES:
            problem = f"title, body and data have {size} bytes; the limit is {MAX_PAYLOAD_BYTES}: shorten them"
            raise errors.InvalidInput("data", problem)
        if not content.data:
            del body["data"]
        built = {**body, **_platform_options(content, time.time())}
        return PreparedPush(recipient, built, attempt_timeout(self._settings.timeout_seconds, message.attempt))

    def session(self) -> PushSession:
        """A new session, not yet connected."""
        return PushSession(self._gateway, self._url, self._tokens, self._devices)


class PushSession:
    """One persistent connection to the provider."""

    def __init__(self, gateway: HttpGateway, url: str, tokens: AccessTokenCache, devices: DeviceStore) -> None:
        self._server = str(gateway)
        self._url = url
        self._tokens = tokens
        self._devices = devices
        self._http = HttpSession(verify_tls=gateway.verify_tls, proxy=gateway.proxy)

    async def send(self, prepared: PreparedPush) -> Receipt:
        """Send to each device; succeeds if at least one device accepts it, the others are listed in the receipt.

        Devices that no longer exist are removed from the app's tables. If no device accepts it, the first retryable error
        is raised, else the last one; Rejected if the user has no device.
        """
        if not prepared.recipient.startswith(USER_PREFIX):
            return await self._send_to_device(prepared, prepared.recipient)
        receipts: list[Receipt] = []
        refused: list[tuple[str, errors.BacklineError]] = []
        for token in await self._devices.list_tokens(prepared.recipient.removeprefix(USER_PREFIX)):
            try:
                receipts.append(await self._send_to_device(prepared, token))
            except errors.BacklineError as exc:
                refused.append((mask_token(token), exc))
        if receipts:
            others = tuple((token, str(exc)) for token, exc in refused)
            response = ", ".join(receipt.response for receipt in receipts)
            return receipts[0]._replace(response=response, refused_recipients=others)
        if not refused:
            raise errors.Rejected(f"{prepared.recipient} has no device for push messages")
        failures = [exc for _, exc in refused]
        raise next((exc for exc in failures if isinstance(exc, errors.RetryableError)), failures[-1])

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
            text = f"{exc}; the device {mask_token(token)} no longer exists and was removed"
            raise errors.Rejected(text, code=exc.code, response=exc.response) from None

    async def _post(self, body: bytes, seconds: float) -> HttpResponse:
        for is_last in (False, True):
            token = await self._tokens.get(self._http)
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json; charset=utf-8"}
            response = await self._http.exchange(HttpRequest("POST", self._url, headers, body, seconds))
            if response.status != 401 or is_last:
                break
            # The token was revoked, or expired early by the provider's clock: send once more with a new one.
            self._tokens.invalidate(token)
        return response

    async def _remove_device(self, token: str) -> None:
        try:
            await self._devices.remove(token, "the push provider reports it as unregistered (UNREGISTERED)")
        except errors.BacklineError as exc:
            # The message's outcome must not depend on this: the next message to the device tries again.
            log.warning("could not remove the unregistered device %s: %s", mask_token(token), exc)


class DeviceStore:
    """Users' devices, by `push_tokens` and `push_token_remove` of include/sql/identity.sql; raises DatabaseFailure."""

    def __init__(self, dsn: Callable[[], str]) -> None:
        self._database = Database(dsn, name="push devices", retry_timeout=5.0)

    async def list_tokens(self, user_id: str) -> list[str]:
        """The tokens of a user's devices; InvalidInput for the field `to` if the id is malformed."""
        try:
            rows = await self._database.fetch(statement("identity", "push_tokens"), {"id": user_id})
        except errors.Misconfigured as exc:
            if isinstance(exc.__cause__, psycopg.DataError):
                raise errors.InvalidInput(
                    "to", f"{user_id!r} is not a user id that the statement push_tokens accepts"
                ) from None
            raise
        return [str(row["token"]) for row in rows]

    async def remove(self, token: str, reason: str) -> None:
        """Remove a device that no longer exists; does nothing if it was removed already."""
        await self._database.fetch(statement("identity", "push_token_remove"), {"token": token, "reason": reason})

    async def close(self) -> None:
        """Close the connection; the next use reopens it. Never raises."""
        await self._database.close()


def parse_response(response: HttpResponse, server: str) -> Receipt:
    """The provider's confirmation; raises DeviceUnregistered, or the error for any other response."""
    found = response.json_object()
    if 200 <= response.status < 300:
        name = found.get("name")
        if not isinstance(name, str):
            text = f"{server} answered {response.status} without a message name{UNKNOWN_OUTCOME}"
            raise errors.UnknownFailure(text, code=str(response.status), response=truncate(response.body))
        return Receipt(str(response.status), name, name)
    error = found.get("error")
    error = error if isinstance(error, dict) else {}
    code = _error_code(error)
    detail = f"{code}: {error.get('message', 'no reason given')}" if code else ""
    if response.status == 404 and code == "UNREGISTERED":
        raise DeviceUnregistered(f"{server} answered 404: {detail}", code="404", response=truncate(detail))
    raise response.error(server, detail=detail, error_class=_ERROR_CLASSES.get(code))


def _error_code(error: dict[str, Any]) -> str:
    details = error.get("details")
    for detail in details if isinstance(details, list) else []:
        if isinstance(detail, dict) and isinstance(detail.get("errorCode"), str):
            return str(detail["errorCode"])
    return str(error.get("status") or "")


def mask_token(recipient: str) -> str:
    """A recipient for texts: a device token is cut, because whoever has all of it can send to the device."""
    if recipient.startswith(USER_PREFIX) or len(recipient) <= VISIBLE_TOKEN_CHARACTERS:
        return recipient
    return f"{recipient[:VISIBLE_TOKEN_CHARACTERS]}…"


def _platform_options(content: PushContent, now: float) -> dict[str, Any]:
    android: dict[str, Any] = {}
    apns: dict[str, Any] = {}
    webpush: dict[str, Any] = {}
    if content.ttl_seconds is not None:
        android["ttl"] = f"{content.ttl_seconds}s"
        # Apple takes a point in time; 0 means now or never.
        apns["apns-expiration"] = str(int(now) + content.ttl_seconds) if content.ttl_seconds else "0"
        webpush["TTL"] = str(content.ttl_seconds)
    if content.collapse_key is not None:
        android["collapse_key"] = content.collapse_key
        apns["apns-collapse-id"] = content.collapse_key
    options = {"android": android, "apns": apns and {"headers": apns}, "webpush": webpush and {"headers": webpush}}
    return {platform: values for platform, values in options.items() if values}
