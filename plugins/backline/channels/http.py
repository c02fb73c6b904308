"""HTTP for channels: gateways, persistent sessions, and the error class of each response.

Error classes follow RFC 9110 section 15, RFC 6585 and RFC 8470. The first match applies:

| status | class | why |
|---|---|---|
| 2xx | | accepted |
| 3xx | unknown | redirects are not followed: they could lead anywhere |
| 429, 503 with Retry-After | rate_limited | the server asks to retry later |
| 408, 504 | timeout | the server or a gateway timed out |
| 502, 503 | network | the server behind a gateway is unreachable |
| 507 | resource | out of storage |
| 425, any other 5xx | unknown | a server error, which may be temporary |
| 401, 403, 407 | authentication | our credentials are wrong or missing |
| any other 4xx | rejected | our request is wrong, and a retry would repeat it |
"""

from __future__ import annotations

import json
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from backline.caching import cache_short_texts
from backline.channels.base import truncate
from backline.errors import (
    AuthenticationFailed,
    BacklineError,
    InvalidInput,
    Misconfigured,
    NetworkFailure,
    RateLimited,
    Rejected,
    ResourceExhausted,
    RetryableError,
    TimeoutFailure,
    UnknownFailure,
)

if TYPE_CHECKING:
    import aiohttp

MAX_RESPONSE_BYTES = 64 * 1024
"""Bytes of a response that are read."""
MAX_HEADER_BYTES = 64 * 1024
"""Of one header of a response."""
MAX_HEADERS = 1000
HIDDEN = "[secret]"
"""In place of a credential that a server repeats."""
MIN_HIDDEN_LENGTH = 6
"""Characters of a password: a shorter one could be part of any word."""
CONNECT_TIMEOUT_SECONDS = 10.0
UNKNOWN_OUTCOME = "; outcome unknown: it may have accepted the message"
MAX_DETAIL_CHARACTERS = 300
"""Characters of a response in an error's text; its `response` holds more."""

_ERROR_CLASSES: dict[int, type[BacklineError]] = {
    429: RateLimited,
    **dict.fromkeys((408, 504), TimeoutFailure),
    **dict.fromkeys((502, 503), NetworkFailure),
    507: ResourceExhausted,
    425: UnknownFailure,
    **dict.fromkeys((401, 403, 407), AuthenticationFailed),
}
_FALSE = frozenset({"0", "f", "false", "n", "no", "off"})


@dataclass(frozen=True, slots=True)
class HttpGateway:
    """Where requests are sent. `url` has no trailing slash; `verify_tls` is off only for test servers."""

    name: str
    """The connection's id, used in error texts."""
    url: str
    login: str | None = None
    password: str | None = field(default=None, repr=False)
    extra: Mapping[str, object] = field(default_factory=dict, repr=False)
    verify_tls: bool = True
    proxy: str | None = field(default=None, repr=False)
    """From HTTPS_PROXY and similar variables; may hold a password."""

    def __str__(self) -> str:
        return self.url

    @classmethod
    def from_connection(
        cls,
        name: str,
        *,
        host: str | None,
        schema: str | None,
        port: int | None,
        login: str | None,
        password: str | None,
        extra: Mapping[str, object],
    ) -> Self:
        """Read an Airflow connection, whose host may be a whole URL; without a scheme it is https.

        `"verify": false` in the extra accepts any certificate. Raises Misconfigured.
        """
        if not host:
            raise Misconfigured(f"connection {name!r} has no host; set its host, for example https://api.example.com")
        text = host if "://" in host else f"{schema or 'https'}://{host}"
        try:
            parts = urlsplit(text)
            url_port = parts.port
        except ValueError as exc:
            raise Misconfigured(f"connection {name!r}: its host is not a URL: {exc}") from None
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise Misconfigured(f"connection {name!r}: its host must be an http or https URL, not {parts.scheme}://...")
        if parts.username or parts.query or parts.fragment:
            advice = "put credentials into its login and password"
            raise Misconfigured(f"connection {name!r}: its host must be a URL without user, '?' and '#'; {advice}")
        authority = parts.netloc if url_port or not port else f"{parts.netloc}:{port}"
        return cls(
            name=name,
            url=f"{parts.scheme}://{authority}{parts.path.rstrip('/')}",
            login=login or None,
            password=password or None,
            extra=extra,
            verify_tls=str(extra.get("verify", True)).strip().lower() not in _FALSE,
            proxy=proxy_for(parts.scheme, parts.hostname),
        )

    def basic_auth(self) -> str:
        """The value of the header Authorization (RFC 7617); Misconfigured unless login and password are set."""
        if not self.login or not self.password:
            raise Misconfigured(f"connection {self.name!r} needs a login and a password")
        return "Basic " + b64encode(f"{self.login}:{self.password}".encode()).decode()


def proxy_for(scheme: str, host: str) -> str | None:
    """The proxy for a host from HTTPS_PROXY, HTTP_PROXY and NO_PROXY, or None."""
    if proxy_bypass(host):
        return None
    proxies = getproxies()
    return proxies.get(scheme) or proxies.get("all")


class HttpRequest(NamedTuple):
    """One request, complete with headers and body."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes
    timeout: float
    """Seconds, including the time to connect."""

    def __repr__(self) -> str:
        """Without headers and body, which may hold secrets."""
        return f"HttpRequest({self.method} {self.url}, {len(self.body)} bytes)"


class HttpResponse(NamedTuple):
    """A response; `body` is cut to MAX_RESPONSE_BYTES bytes."""

    status: int
    headers: Mapping[str, str]
    """Names may be in any case."""
    body: str

    def raise_for_status(self, server: str) -> None:
        """Raise the error for a response, by the table above; none for 2xx."""
        if not 200 <= self.status < 300:
            raise self.error(server)

    def error(self, server: str, *, detail: str = "", error_class: type[BacklineError] | None = None) -> BacklineError:
        """The error for a response other than 2xx; `detail`: the server's message; `error_class` overrides the status's."""
        status, headers, body = self
        lower = {name.lower(): value for name, value in headers.items()}
        wait = retry_after(lower)
        if error_class is None and status == 503 and wait is not None:
            error_class = RateLimited
        elif error_class is None:
            error_class = _ERROR_CLASSES.get(status, Rejected if 400 <= status < 500 else UnknownFailure)
        message = detail or " ".join(body.split())[:MAX_DETAIL_CHARACTERS]
        text = f"{server} answered {status}" + (f": {message}" if message else "")
        if 300 <= status < 400:
            text += (
                f", a redirect to {lower.get('location', 'nowhere')!r}; redirects are not followed: give the final URL"
            )
        if issubclass(error_class, RetryableError):
            return error_class(text, code=str(status), response=truncate(detail or body), retry_after=wait)
        return error_class(text, code=str(status), response=truncate(detail or body))

    def json_object(self) -> dict[str, Any]:
        """The JSON object in the body; empty if it is anything else."""
        try:
            found = json.loads(self.body)
        except (ValueError, RecursionError):
            return {}
        return found if isinstance(found, dict) else {}


@dataclass(slots=True, eq=False, repr=False)
class HttpSession:
    """A persistent connection, opened by the first request, reopened after it breaks; no redirects, no cookies."""

    verify_tls: bool = True
    proxy: str | None = None
    connector: Callable[[], aiohttp.BaseConnector] | None = None
    """Creates the aiohttp connector, for callers that choose addresses or need several connections."""
    repeat_disconnected: bool = False
    """Send once more if the server has closed the connection; for servers that recognize a repetition."""
    _client: aiohttp.ClientSession | None = field(default=None, init=False)

    async def exchange(self, request: HttpRequest, server: str = "") -> HttpResponse:
        """The response, whatever its status; TimeoutFailure, NetworkFailure, or InvalidInput for a wrong URL.

        Errors name the `server`, or else the URL's origin, and say if it may have processed the request.
        """
        import aiohttp

        host = server or _origin(request.url)
        try:
            try:
                return await self._request(request)
            except aiohttp.ServerDisconnectedError:
                if not self.repeat_disconnected:
                    raise
                return await self._request(request)
        except aiohttp.ConnectionTimeoutError:
            seconds = min(request.timeout, CONNECT_TIMEOUT_SECONDS)
            raise TimeoutFailure(f"{host}: no connection within {seconds:g} s") from None
        except TimeoutError:
            raise TimeoutFailure(f"{host} did not answer within {request.timeout:g} s{UNKNOWN_OUTCOME}") from None
        except (aiohttp.InvalidURL, UnicodeError):  # the latter for a host with an empty or too long label
            raise InvalidInput("url", f"of {host} is not usable; change it") from None
        except aiohttp.ClientConnectorCertificateError as exc:
            advice = 'trust its authority (SSL_CERT_FILE), or set "verify": false in the extra for a test server'
            raise NetworkFailure(f"{host}: its certificate is not valid ({exc.certificate_error}); {advice}") from exc
        except aiohttp.ClientConnectorDNSError as exc:
            raise NetworkFailure(f"{host}: cannot find that host; check the connection's host and DNS") from exc
        except (aiohttp.ClientConnectorError, aiohttp.ClientProxyConnectionError) as exc:
            raise NetworkFailure(f"{host}: no connection ({exc.os_error.strerror or exc.os_error})") from exc
        except (aiohttp.ClientError, OSError) as exc:
            # str() of an error about a response would contain the whole URL.
            text = exc.message if isinstance(exc, aiohttp.ClientResponseError) else str(exc)
            reason = " ".join(text.split()) or type(exc).__name__
            raise NetworkFailure(f"{host}: the connection broke ({reason}){UNKNOWN_OUTCOME}") from exc

    async def close(self) -> None:
        """Close all connections; never raises."""
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def _request(self, request: HttpRequest) -> HttpResponse:
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=request.timeout, connect=min(request.timeout, CONNECT_TIMEOUT_SECONDS))
        async with self._get_client().request(
            request.method, request.url, data=request.body, headers=request.headers, timeout=timeout,
            allow_redirects=False, proxy=self.proxy,
        ) as response:  # fmt: skip
            answer = HttpResponse(response.status, response.headers, await _read_text(response))
            authorization = request.headers.get("Authorization")
            return _without(answer, _credentials(authorization)) if authorization else answer

    def _get_client(self) -> aiohttp.ClientSession:
        import aiohttp

        if self._client is None:
            factory = self.connector or partial(aiohttp.TCPConnector, limit=1, ssl=self.verify_tls)
            # A response whose head is too long would count as a broken connection, and what it accepted be sent again.
            self._client = aiohttp.ClientSession(
                connector=factory(), cookie_jar=aiohttp.DummyCookieJar(), headers={"User-Agent": "Backline"},
                max_line_size=MAX_HEADER_BYTES, max_field_size=MAX_HEADER_BYTES, max_headers=MAX_HEADERS,
            )  # fmt: skip
        return self._client


async def _read_text(response: aiohttp.ClientResponse) -> str:
    content = bytearray()
    while len(content) < MAX_RESPONSE_BYTES and not response.content.at_eof():
        content += await response.content.read(MAX_RESPONSE_BYTES - len(content))
    try:
        text = content.decode(response.charset or "utf-8", "replace")
    except (LookupError, ValueError):  # "idna" and some other codecs are not for text, or raise in spite of "replace"
        text = content.decode("utf-8", "replace")
    if text.isprintable():
        return text
    # PostgreSQL cannot store a NUL, nor half a surrogate pair, which "unicode-escape" returns.
    return text.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


@cache_short_texts(64)
def _credentials(authorization: str) -> Sequence[str]:
    """What a server may repeat of a request's Authorization, in each form; errors and attempts keep what it answers."""
    scheme, _, value = authorization.partition(" ")
    password = b64decode(value).decode().partition(":")[2] if scheme == "Basic" else ""
    secrets = [secret for secret in (value, password) if len(secret) >= MIN_HIDDEN_LENGTH]
    return [shape for secret in secrets for shape in (secret, secret.replace("/", "\\/"))]  # some JSON escapes slashes


def _without(answer: HttpResponse, hidden: Sequence[str]) -> HttpResponse:
    whole = "\n".join((answer.body, *answer.headers.values()))
    if not any(shape in whole for shape in hidden):
        return answer

    def clean(text: str) -> str:
        for shape in hidden:
            text = text.replace(shape, HIDDEN)
        return text

    return HttpResponse(
        answer.status, {name: clean(value) for name, value in answer.headers.items()}, clean(answer.body)
    )


def _origin(url: str) -> str:
    """Scheme, host and port only: a path may hold a secret."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}"


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds of Retry-After (RFC 9110 section 10.2.3), a date relative to the response's Date; names are in lower case."""
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdecimal():
        return float(text[:12])
    until = _parse_http_date(text)
    if until is None:
        return None
    return max(0.0, until - (_parse_http_date(headers.get("date", "")) or time.time()))


def _parse_http_date(text: str) -> float | None:
    try:
        found = parsedate_to_datetime(text)
        # The form of asctime, which RFC 9110 section 5.6.7 still allows, has no zone: it is UTC.
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
