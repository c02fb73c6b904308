"""The push channel: one notification for each device (FCM's "Method: projects.messages.send" and "ErrorCode")."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple
from urllib.parse import quote, urlsplit

import psycopg

from backline import errors
from backline.channels.base import Message, PushContent, Receipt, attempt_timeout, truncate
from backline.channels.http import UNKNOWN_OUTCOME, HttpGateway, HttpRequest, HttpResponse, HttpSession
from backline.channels.push.limits import check_size
from backline.channels.push.settings import PushSettings
from backline.channels.recipients import USER_PREFIX, parse_push_recipient
from backline.db.connect import Database
from backline.db.statements import statement

log = logging.getLogger(__name__)

SCOPE = "https://www.googleapis.com/auth/firebase.messaging"
TOKEN_URL = "https://oauth2.googleapis.com/token"  # noqa: S105 - not a token
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
    message: Mapping[str, object]
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
        self._account = ServiceAccount(gateway)
        self._url = f"{gateway.url}/v1/projects/{quote(self._account.project_id, safe='')}/messages:send"

    def prepare(self, message: Message) -> PreparedPush:
        """Render and build the message; raises InvalidInput, naming the field, if that is impossible."""
        recipient = parse_push_recipient(message.recipient, "to")
        content = self._render(message)
        check_size(content)
        body = {"notification": {"title": content.title, "body": content.body}, "data": dict(content.data)}
        if not content.data:
            del body["data"]
        built = {**body, **_platform_options(content, time.time())}
        return PreparedPush(recipient, built, attempt_timeout(self._settings.timeout_seconds, message.attempt))

    def session(self) -> PushSession:
        """A new session, not yet connected."""
        return PushSession(self._gateway, self._url, self._account, self._devices)


class PushSession:
    """One persistent connection to the provider."""

    def __init__(self, gateway: HttpGateway, url: str, account: ServiceAccount, devices: DeviceStore) -> None:
        self._server = str(gateway)
        self._url = url
        self._account = account
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
            token = await self._account.get_token(self._http, seconds)
            headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json; charset=utf-8"}
            response = await self._http.exchange(HttpRequest("POST", self._url, headers, body, seconds))
            if response.status != 401 or is_last:
                break
            # The token was revoked, or expired early by the provider's clock: send once more with a new one.
            self._account.invalidate(token)
        return response

    async def _remove_device(self, token: str) -> None:
        try:
            await self._devices.remove(token, "the push provider reports it as unregistered (UNREGISTERED)")
        except errors.BacklineError as exc:
            # The message's outcome must not depend on this: the next message to the device tries again.
            log.warning("could not remove the unregistered device %s: %s", mask_token(token), exc)


class ServiceAccount:
    """Our identity at the push provider, and its current access token, which all sessions of a channel share."""

    def __init__(self, gateway: HttpGateway) -> None:
        """Read `service_account` of the connection's extra, an object or its JSON text; raises Misconfigured."""
        from google.oauth2.service_account import Credentials

        where = f"connection {gateway.name!r}: extra.service_account"
        key = gateway.extra.get("service_account")
        try:
            key = json.loads(key) if isinstance(key, str) else key
        except ValueError:
            raise errors.Misconfigured(f"{where} is not JSON; set it to the service account's key file") from None
        if not isinstance(key, Mapping):
            raise errors.Misconfigured(f"{where} is missing; set it to the service account's key file, as an object")
        for name in ("project_id", "client_email", "private_key"):
            if not isinstance(key.get(name), str) or not key[name]:
                raise errors.Misconfigured(f"{where}.{name} is missing; use the whole key file of the service account")
        self.project_id: str = key["project_id"]
        self.token_url = str(key.get("token_uri") or TOKEN_URL)
        if urlsplit(self.token_url).scheme not in {"http", "https"}:
            raise errors.Misconfigured(f"{where}.token_uri must be an http or https URL")
        info, claims = {**key, "token_uri": self.token_url}, {"aud": self.token_url}
        try:
            self.credentials = Credentials.from_service_account_info(info, scopes=[SCOPE], additional_claims=claims)
            self.credentials.sign_bytes(b"fails unless it is an RSA key")
        except (TypeError, ValueError):  # not shown: its text might quote the key
            raise errors.Misconfigured(
                f"{where}.private_key is not a PEM private key; copy it unchanged from the file"
            ) from None
        self._server = f"the token server of {key['client_email']}"
        self._lock = asyncio.Lock()

    async def get_token(self, http: HttpSession, seconds: float) -> str:
        """A token that is valid for some minutes, requested if necessary; AuthenticationFailed if the account is refused."""
        from google.auth.exceptions import RefreshError

        loop = asyncio.get_running_loop()

        def send(url: str, method: str, body: bytes, headers: Mapping[str, str]) -> SimpleNamespace:
            request = HttpRequest(method, url, headers, body, seconds)
            return asyncio.run_coroutine_threadsafe(self._exchange(http, request), loop).result()

        async with self._lock:
            if not self.credentials.valid:
                try:
                    await asyncio.to_thread(self.credentials.refresh, send)
                except (RefreshError, OverflowError, TypeError, ValueError):
                    # The response is not quoted, because it may contain part of a token.
                    raise errors.UnknownFailure(f"{self._server} answered without an access token") from None
            return str(self.credentials.token)

    def invalidate(self, token: str) -> None:
        """Discard a token that was refused, unless it has already been replaced."""
        if token == self.credentials.token:
            self.credentials.token = None

    async def _exchange(self, http: HttpSession, request: HttpRequest) -> SimpleNamespace:
        response = await http.exchange(request)
        if response.status == 400:  # RFC 6749 section 5.2: invalid_grant and the like
            found = response.json_object()
            problem = f"{found.get('error', 'no error code')}: {found.get('error_description', 'no description')}"
            detail = f"{problem}; check extra.service_account and this host's clock"
            raise response.error(self._server, detail=detail, error_class=errors.AuthenticationFailed)
        response.raise_for_status(self._server)  # so that google-auth itself never retries
        return SimpleNamespace(status=response.status, data=response.body)


class DeviceStore:
    """Users' devices, by `push_tokens` and `push_token_remove` of include/sql/identity.sql; raises DatabaseFailure."""

    def __init__(self, dsn: Callable[[], str]) -> None:
        self._database = Database(dsn, name="push devices", retry_timeout=5.0)

    async def list_tokens(self, user_id: str) -> list[str]:
        """The tokens of a user's devices; InvalidInput for the field `to` if the id is malformed."""
        try:
            return await self._database.fetch(statement("identity", "push_tokens"), str, {"id": user_id})
        except errors.Misconfigured as exc:
            if isinstance(exc.__cause__, psycopg.DataError):
                raise errors.InvalidInput(
                    "to", f"{user_id!r} is not a user id that the statement push_tokens accepts"
                ) from None
            raise

    async def remove(self, token: str, reason: str) -> None:
        """Remove a device that no longer exists; does nothing if it was removed already."""
        params = {"token": token, "reason": reason}
        await self._database.fetch(statement("identity", "push_token_remove"), object, params)

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
