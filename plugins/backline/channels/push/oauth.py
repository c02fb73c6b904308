"""Access tokens of a Google service account, by the JWT bearer grant (RFC 7523)."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlencode, urlsplit

from backline.channels.http import HttpGateway, HttpRequest, HttpSession
from backline.errors import AuthenticationFailed, Misconfigured, UnknownFailure

SCOPE = "https://www.googleapis.com/auth/firebase.messaging"
TOKEN_URL = "https://oauth2.googleapis.com/token"  # noqa: S105 - not a token
GRANT_TYPE = "urn:ietf:params:oauth:grant-type:jwt-bearer"
ASSERTION_LIFETIME_SECONDS = 3600
"""The maximum that Google accepts."""
EXPIRY_MARGIN_SECONDS = 60.0
"""A token is not used in its last seconds."""
_REQUIRED_KEYS = ("project_id", "client_email", "private_key")


@dataclass(frozen=True, slots=True)
class ServiceAccount:
    """Our identity at the push provider: the key file of a service account."""

    project_id: str
    client_email: str
    private_key: str = field(repr=False)
    private_key_id: str = ""
    token_url: str = TOKEN_URL

    @classmethod
    def from_gateway(cls, gateway: HttpGateway) -> Self:
        """Read `service_account` of the connection's extra, an object or its JSON text; raises Misconfigured."""
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        where = f"connection {gateway.name!r}: extra.service_account"
        key = gateway.extra.get("service_account")
        if isinstance(key, str):
            try:
                key = json.loads(key)
            except ValueError:
                raise Misconfigured(f"{where} is not JSON; set it to the service account's key file") from None
        if not isinstance(key, Mapping):
            raise Misconfigured(f"{where} is missing; set it to the service account's key file, as an object")
        if missing := [name for name in _REQUIRED_KEYS if not isinstance(key.get(name), str) or not key[name]]:
            raise Misconfigured(f"{where}.{missing[0]} is missing; use the whole key file of the service account")
        token_url = str(key.get("token_uri") or TOKEN_URL)
        if urlsplit(token_url).scheme not in {"http", "https"}:
            raise Misconfigured(f"{where}.token_uri must be an http or https URL")
        key_id = str(key.get("private_key_id") or "")
        try:
            load_pem_private_key(key["private_key"].encode(), None)
        except (ValueError, TypeError):
            # Without the error's own text, which might quote the key.
            advice = "copy it unchanged from the file"
            raise Misconfigured(f"{where}.private_key is not a PEM private key; {advice}") from None
        return cls(key["project_id"], key["client_email"], key["private_key"], key_id, token_url)

    def assertion(self, now: float) -> str:
        """A signed JWT that requests a token, valid for an hour from `now` (seconds since 1970)."""
        import jwt

        claims = {
            "iss": self.client_email,
            "scope": SCOPE,
            "aud": self.token_url,
            "iat": int(now),
            "exp": int(now) + ASSERTION_LIFETIME_SECONDS,
        }
        headers = {"kid": self.private_key_id} if self.private_key_id else None
        return jwt.encode(claims, self.private_key, algorithm="RS256", headers=headers)


class AccessTokenCache:
    """The current access token of an account, requested when needed; shared by all sessions of a channel."""

    def __init__(self, account: ServiceAccount, timeout: float) -> None:
        self._account = account
        self._timeout = timeout
        self._token = ""
        self._valid_until = 0.0
        self._lock = asyncio.Lock()

    async def get(self, http: HttpSession) -> str:
        """A token that is valid for at least a minute; AuthenticationFailed if the account is refused."""
        async with self._lock:
            if time.monotonic() >= self._valid_until:
                self._token, lifetime = await self._request_token(http)
                self._valid_until = time.monotonic() + lifetime - EXPIRY_MARGIN_SECONDS
            return self._token

    def invalidate(self, token: str) -> None:
        """Discard a token that was refused, unless it has already been replaced."""
        if token == self._token:
            self._valid_until = 0.0

    async def _request_token(self, http: HttpSession) -> tuple[str, float]:
        account = self._account
        body = urlencode({"grant_type": GRANT_TYPE, "assertion": account.assertion(time.time())}).encode()
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        answer = await http.exchange(HttpRequest("POST", account.token_url, headers, body, self._timeout))
        server = f"the token server of {account.client_email}"
        found = answer.json_object()
        if answer.status == 400:  # RFC 6749 section 5.2: invalid_grant and the like
            problem = "no description"
            if "error" in found:
                problem = f"{found['error']}: {found.get('error_description', problem)}"
            advice = "check extra.service_account and this host's clock"
            raise AuthenticationFailed(f"{server} answered 400: {problem}; {advice}", code="400")
        answer.raise_for_status(server)
        try:
            return str(found["access_token"]), float(found.get("expires_in", ASSERTION_LIFETIME_SECONDS))
        except (ValueError, KeyError, TypeError):
            # The response is not quoted, because it may contain part of a token.
            raise UnknownFailure(f"{server} answered {answer.status} without an access token") from None
