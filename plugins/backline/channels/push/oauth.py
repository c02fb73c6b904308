"""Access tokens of a Google service account, by the JWT bearer grant (RFC 7523)."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import urlencode, urlsplit

from backline.channels.http.gateway import HttpGateway
from backline.channels.http.responses import raise_for_status
from backline.channels.http.session import HttpRequest, HttpSession
from backline.errors import AuthenticationFailed, Misconfigured, UnknownFailure

SCOPE = "https://www.googleapis.com/auth/firebase.messaging"
TOKEN_URL = "https://oauth2.googleapis.com/token"  # noqa: S105 - where one is to be had
GRANT_TYPE = "urn:ietf:params:oauth:grant-type:jwt-bearer"
ASSERTION_LIFETIME_SECONDS = 3600
"""Of an assertion: the longest that Google takes."""
EXPIRY_MARGIN_SECONDS = 60.0
"""A token this near its end is not used any more."""
_REQUIRED_KEYS = ("project_id", "client_email", "private_key")


@dataclass(frozen=True, slots=True)
class ServiceAccount:
    """Who we are to the push provider: the file that its console gives for a service account."""

    project_id: str
    client_email: str
    private_key: str = field(repr=False)
    private_key_id: str = ""
    token_url: str = TOKEN_URL

    @classmethod
    def from_gateway(cls, gateway: HttpGateway) -> Self:
        """Read `service_account` of the connection's extra, an object or its JSON text; raises Misconfigured."""
        where = f"connection {gateway.name!r}: extra.service_account"
        given = gateway.extra.get("service_account")
        if isinstance(given, str):
            try:
                given = json.loads(given)
            except ValueError:
                raise Misconfigured(f"{where} is not JSON; put the service account's key file there") from None
        if not isinstance(given, Mapping):
            raise Misconfigured(f"{where} is missing; put the service account's key file there, as an object")
        if missing := [name for name in _REQUIRED_KEYS if not isinstance(given.get(name), str) or not given[name]]:
            raise Misconfigured(f"{where}.{missing[0]} is missing; take the whole key file of the service account")
        token_url = str(given.get("token_uri") or TOKEN_URL)
        if urlsplit(token_url).scheme not in {"http", "https"}:
            raise Misconfigured(f"{where}.token_uri must be an http or https URL")
        account = cls(
            given["project_id"],
            given["client_email"],
            given["private_key"],
            str(given.get("private_key_id") or ""),
            token_url,
        )
        account.check_key(where)
        return account

    def check_key(self, where: str) -> None:
        """Misconfigured if the private key cannot be read."""
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            load_pem_private_key(self.private_key.encode(), None)
        except (ValueError, TypeError):
            # Not the error's own text: it might quote the key.
            raise Misconfigured(
                f"{where}.private_key is not a private key in PEM; take it as it is in the file"
            ) from None

    def assertion(self, now: float) -> str:
        """A signed JWT that asks for a token, good for an hour from `now` (seconds since 1970)."""
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
    """The present token of an account, asked for when there is none; shared by all sessions of a channel."""

    def __init__(self, account: ServiceAccount, timeout: float) -> None:
        self._account = account
        self._timeout = timeout
        self._token = ""
        self._valid_until = 0.0
        self._lock = asyncio.Lock()

    async def get(self, http: HttpSession) -> str:
        """A token that is good for a minute at least; one request at a time asks for a new one.

        AuthenticationFailed if the account is refused; other failures as of any request.
        """
        async with self._lock:
            if time.monotonic() >= self._valid_until:
                self._token, lives = await self._request_token(http)
                self._valid_until = time.monotonic() + lives - EXPIRY_MARGIN_SECONDS
            return self._token

    def invalidate(self, token: str) -> None:
        """It was refused: the next `get` asks for another, unless somebody has done so already."""
        if token == self._token:
            self._valid_until = 0.0

    async def _request_token(self, http: HttpSession) -> tuple[str, float]:
        account = self._account
        body = urlencode({"grant_type": GRANT_TYPE, "assertion": account.assertion(time.time())}).encode()
        headers = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
        answer = await http.exchange(HttpRequest("POST", account.token_url, headers, body, self._timeout))
        server = f"the token server of {account.client_email}"
        if answer.status == 400:  # RFC 6749 section 5.2: invalid_grant and the like
            text = f"{server} answered 400: {_error_description(answer.body)}; check extra.service_account and this host's clock"
            raise AuthenticationFailed(text, code="400")
        raise_for_status(answer.status, answer.headers, answer.body, server=server)
        try:
            found = json.loads(answer.body)
            return str(found["access_token"]), float(found.get("expires_in", ASSERTION_LIFETIME_SECONDS))
        except (ValueError, KeyError, TypeError, AttributeError):
            # The answer is not quoted: half a token may stand in it.
            raise UnknownFailure(f"{server} answered {answer.status} without an access token") from None


def _error_description(body: str) -> str:
    try:
        found = json.loads(body)
        return f"{found['error']}: {found.get('error_description', 'no reason given')}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return "no reason given"
