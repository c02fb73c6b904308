"""Requests over persistent HTTP connections, with aiohttp; its errors are translated to Backline's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from backline.errors import InvalidInput, NetworkFailure, TimeoutFailure

if TYPE_CHECKING:
    import aiohttp

MAX_RESPONSE_BYTES = 64 * 1024
"""Bytes of a response that are read."""
CONNECT_TIMEOUT_SECONDS = 10.0
MAX_TIMEOUT_SECONDS = 120.0
UNKNOWN_OUTCOME = "; outcome unknown: it may have accepted the message"


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


class HttpSession:
    """A few persistent connections, opened by the first request and reopened after they break.

    Redirects are not followed and cookies not kept. `connector` creates the aiohttp connector, for callers that choose
    addresses themselves. `repeat_disconnected`: send once more if the server has closed a persistent connection, for
    servers that recognize a repetition.
    """

    def __init__(
        self,
        *,
        connections: int = 1,
        verify_tls: bool = True,
        proxy: str | None = None,
        connector: Callable[[], aiohttp.BaseConnector] | None = None,
        repeat_disconnected: bool = False,
    ) -> None:
        self._connections = connections
        self._verify_tls = verify_tls
        self._proxy = proxy
        self._connector = connector
        self._repeat_disconnected = repeat_disconnected
        self._client: aiohttp.ClientSession | None = None

    async def exchange(self, request: HttpRequest, server: str = "") -> HttpResponse:
        """The response, whatever its status; raises TimeoutFailure or NetworkFailure, or InvalidInput for a wrong URL.

        The error says if the server may nevertheless have processed the request. It names the server as `server`, or by
        the URL's origin.
        """
        import aiohttp

        host = server or _origin(request.url)
        try:
            try:
                return await self._request(request)
            except aiohttp.ServerDisconnectedError:
                if not self._repeat_disconnected:
                    raise
                return await self._request(request)
        except aiohttp.ConnectionTimeoutError:
            seconds = min(request.timeout, CONNECT_TIMEOUT_SECONDS)
            raise TimeoutFailure(f"{host}: no connection within {seconds:g} s") from None
        except TimeoutError:
            raise TimeoutFailure(f"{host} did not answer within {request.timeout:g} s{UNKNOWN_OUTCOME}") from None
        except aiohttp.InvalidURL:
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
            allow_redirects=False, proxy=self._proxy,
        ) as response:  # fmt: skip
            content = await _read_body(response)
            return HttpResponse(response.status, response.headers, _decode(content, response.charset or "utf-8"))

    def _get_client(self) -> aiohttp.ClientSession:
        import aiohttp

        if self._client is None:
            factory = self._connector or partial(aiohttp.TCPConnector, limit=self._connections, ssl=self._verify_tls)
            self._client = aiohttp.ClientSession(
                connector=factory(), cookie_jar=aiohttp.DummyCookieJar(), headers={"User-Agent": "Backline"}
            )
        return self._client


def timeout(seconds: float, attempt: int) -> float:
    """The timeout of an attempt, numbered from 1: doubles with every attempt, up to 120 s."""
    return max(seconds, min(seconds * 2.0 ** min(attempt - 1, 10), MAX_TIMEOUT_SECONDS))


async def _read_body(response: aiohttp.ClientResponse) -> bytes:
    content = bytearray()
    async for piece in response.content.iter_chunked(8192):
        content += piece
        if len(content) >= MAX_RESPONSE_BYTES:
            break
    return bytes(content[:MAX_RESPONSE_BYTES])


def _decode(content: bytes, charset: str) -> str:
    try:
        text = content.decode(charset, "replace")
    except LookupError:
        text = content.decode("utf-8", "replace")
    return text.replace("\0", "\ufffd")  # PostgreSQL cannot store a NUL


def _origin(url: str) -> str:
    """Scheme, host and port only: a path may hold a secret."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}"
