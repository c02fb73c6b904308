"""Persistent HTTP connections, against faulty servers."""

from __future__ import annotations

import asyncio
import gzip
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from multidict import CIMultiDict

from backline.channels.http import MAX_RESPONSE_BYTES, HttpGateway, HttpRequest, HttpResponse, HttpSession
from backline.errors import NetworkFailure, TimeoutFailure

pytestmark = pytest.mark.anyio
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def http_server(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """A server on loopback; its URL."""
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    try:
        host = "http://127.0.0.1" if tls is None else "https://localhost"
        yield f"{host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def raw(answer: bytes) -> AsyncIterator[str]:
    """A server that reads a request, sends this, and closes the connection."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def exchange(session: HttpSession, url: str, body: bytes = b"hello", seconds: float = 5) -> HttpResponse:
    try:
        return await session.exchange(HttpRequest("POST", url, {"X-Own": "1"}, body, seconds))
    finally:
        await session.close()


async def test_a_request_is_sent_unchanged_without_cookies_or_extra_headers() -> None:
    seen: list[tuple[str, bytes, dict[str, str]]] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append((request.method, await request.read(), dict(request.headers)))
        return web.json_response({"ok": True}, status=201, headers={"Retry-After": "3", "Set-Cookie": "a=b"})

    async with http_server(handler) as url:
        session = HttpSession()
        for _ in range(2):
            answer = await session.exchange(HttpRequest("POST", f"{url}/x", {"X-Own": "1"}, b"hello", 5))
        await session.close()
    assert (answer.status, answer.headers["retry-after"], answer.body) == (201, "3", '{"ok": true}')
    method, body, headers = seen[1]
    assert (method, body, headers["X-Own"], headers["User-Agent"]) == ("POST", b"hello", "1", "Backline")
    assert "Cookie" not in headers


@pytest.mark.parametrize("headers", [[("X-Long", "x" * 9000)], [("Set-Cookie", f"c{n}=v") for n in range(150)]])
async def test_a_response_with_a_large_head_is_a_response(headers: list[tuple[str, str]]) -> None:
    async def handler(_request: web.Request) -> web.Response:
        return web.Response(text="ok", headers=CIMultiDict(headers))

    async with http_server(handler) as url:
        answer = await exchange(HttpSession(), url)
    assert (answer.status, answer.body) == (200, "ok")


async def test_the_connection_is_reused() -> None:
    peers: set[object] = set()

    async def handler(request: web.Request) -> web.Response:
        assert request.transport is not None
        peers.add(request.transport.get_extra_info("peername"))
        return web.Response(text="ok")

    async with http_server(handler) as url:
        session = HttpSession()
        for _ in range(5):
            await session.exchange(HttpRequest("POST", url, {}, b"", 5))
        await session.close()
    assert len(peers) == 1


async def test_a_redirect_is_returned_and_not_followed() -> None:
    asked: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.Response(status=307, headers={"Location": "/elsewhere"})

    async with http_server(handler) as url:
        assert (await exchange(HttpSession(), f"{url}/here")).status == 307
    assert asked == ["/here"]


async def test_a_credential_that_the_server_repeats_is_hidden() -> None:
    async def handler(request: web.Request) -> web.Response:
        sent = request.headers["Authorization"]
        said = {"sent": sent, "escaped": sent.replace("/", "\\/"), "password": "pass/word?>"}
        return web.json_response(said, status=307, headers={"Location": f"/login?with={sent}"})

    basic = HttpGateway("g", "http://x", "user??>", "pass/word?>").basic_auth()
    for value in (basic, "Bearer abc/def.ghi"):
        async with http_server(handler) as url:
            session = HttpSession()
            answer = await session.exchange(HttpRequest("POST", url, {"Authorization": value}, b"", 5))
            await session.close()
        error = answer.error("gateway")
        for text in (answer.body, answer.headers["Location"], str(error), error.response or ""):
            assert value.split()[1].replace("/", "\\/") not in text
            assert value.split()[1] not in text
            assert "pass/word" not in text or value is not basic
            assert "[secret]" in text


@pytest.mark.parametrize("packed", [False, True])
async def test_an_endless_response_is_cut(packed: bool) -> None:  # noqa: FBT001
    async def handler(_request: web.Request) -> web.Response:
        body = b"x" * 50_000_000
        return (
            web.Response(body=gzip.compress(body), headers={"Content-Encoding": "gzip"})
            if packed
            else web.Response(body=body)
        )

    async with http_server(handler) as url:
        assert len((await exchange(HttpSession(), url, seconds=20)).body) == MAX_RESPONSE_BYTES


@pytest.mark.parametrize(
    ("charset", "said"), [("iso-8859-1", "Grüße"), ("no-such", "Gr\ufffd\ufffde"), ("", "Gr\ufffd\ufffde")]
)
async def test_a_response_is_decoded_by_its_charset(charset: str, said: str) -> None:
    kind = f"text/plain; charset={charset}" if charset else "text/plain"
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: 5\r\n\r\n".encode()
    async with raw(head + "Grüße".encode("iso-8859-1")) as url:
        assert (await exchange(HttpSession(), url)).body == said


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf",
        b"SMTP? 220 mail.example\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
)
async def test_an_incomplete_response_leaves_the_outcome_unknown(answer: bytes) -> None:
    async with raw(answer) as url:
        with pytest.raises(NetworkFailure, match="outcome unknown") as caught:
            await exchange(HttpSession(), f"{url}/secret-path")
    assert url in str(caught.value)
    assert "secret-path" not in str(caught.value)


async def test_a_timeout_leaves_the_outcome_unknown() -> None:
    async def handler(_request: web.Request) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    async with http_server(handler) as url:
        with pytest.raises(TimeoutFailure, match=r"did not answer within 0\.2 s; outcome unknown"):
            await exchange(HttpSession(), url, seconds=0.2)


class UnresolvableResolver(AbstractResolver):
    """Resolves no host."""

    async def resolve(self, host: str, *_: object, **__: object) -> list[ResolveResult]:
        raise OSError(None, f"Name or service not known: {host}")

    async def close(self) -> None:
        pass


async def test_an_unknown_host_is_reported_as_not_reached() -> None:
    session = HttpSession(connector=lambda: aiohttp.TCPConnector(resolver=UnresolvableResolver()))
    with pytest.raises(NetworkFailure, match="cannot find that host") as caught:
        await exchange(session, "https://gateway.example/x")
    assert "outcome unknown" not in str(caught.value)


async def test_an_untrusted_certificate_is_refused_unless_verify_is_off(
    server_tls: ssl.SSLContext,
) -> None:
    async def handler(_request: web.Request) -> web.Response:
        return web.Response(text="ok")

    async with http_server(handler, server_tls) as url:
        with pytest.raises(NetworkFailure, match="certificate is not valid") as caught:
            await exchange(HttpSession(), url)
        assert "outcome unknown" not in str(caught.value)
        assert (await exchange(HttpSession(verify_tls=False), url)).body == "ok"


async def test_a_proxy_is_used_for_other_hosts() -> None:
    asked: list[str] = []

    async def handler(request: web.Request) -> web.Response:
        asked.append(request.headers["Host"])
        return web.Response(text="by proxy")

    async with http_server(handler) as proxy:
        assert (await exchange(HttpSession(proxy=proxy), "http://gateway.example/x")).body == "by proxy"
    assert asked == ["gateway.example"]
