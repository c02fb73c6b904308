"""Fixtures: SMTP servers on loopback, and certificates that only the tests trust."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest
import trustme
from aiosmtpd.smtp import SMTP

from tests.integration.channels.servers import Mailbox


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def start_mail_server() -> AsyncIterator[Callable[..., Awaitable[Mailbox]]]:
    """Starts an aiosmtpd server; keyword arguments go to its SMTP class."""
    async with AsyncExitStack() as stack:

        async def start(*, smtps: ssl.SSLContext | None = None, pipelining: bool = True, **options: Any) -> Mailbox:
            mailbox = Mailbox(pipelining=pipelining)

            def serve() -> SMTP:
                mailbox.connections += 1
                return SMTP(mailbox, hostname="mail.test", **options)

            server = await asyncio.get_running_loop().create_server(serve, "127.0.0.1", 0, ssl=smtps)
            await stack.enter_async_context(server)
            mailbox.port = server.sockets[0].getsockname()[1]
            return mailbox

        yield start


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def test_ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="session")
def server_tls(test_ca: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    test_ca.issue_cert("localhost").configure_cert(context)
    return context


@pytest.fixture
def trust_test_ca(
    test_ca: trustme.CA, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Makes this process trust the tests' authority, the way an operator would."""
    path = tmp_path_factory.mktemp("tls") / "authority.pem"
    test_ca.cert_pem.write_to_path(str(path))
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
