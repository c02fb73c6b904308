"""The asynchronous peers' SMTP client: persistent connections and pipelining."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from bench.peers.emails import SENDER


class Connection:
    """One persistent connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def open(cls, host: str, port: int) -> Connection:
        """Connect and send EHLO."""
        connection = cls(*await asyncio.open_connection(host, port))
        await connection._replies(1)
        connection._writer.write(b"EHLO bench.example.com\r\n")
        await connection._replies(1)
        return connection

    async def send(self, to: str, message: bytes) -> None:
        """Send one message with CRLF line ends; OSError if it is rejected."""
        self._writer.write(f"MAIL FROM:<{SENDER}>\r\nRCPT TO:<{to}>\r\nDATA\r\n".encode())
        await self._replies(3)
        self._writer.write(message.replace(b"\r\n.", b"\r\n..") + b"\r\n.\r\n")
        await self._replies(1)

    def close(self) -> None:
        """Close the connection."""
        self._writer.close()

    async def _replies(self, count: int) -> None:
        while count:
            line = await self._reader.readline()
            if line[:1] not in b"23" or not line:
                raise OSError(f"rejected: {line.decode(errors='replace').strip()}")
            count -= line[3:4] != b"-"


class ConnectionPool:
    """A pool of persistent connections."""

    def __init__(self, port: int, count: int) -> None:
        self._port = port
        self._count = count
        self._free: asyncio.Queue[Connection] = asyncio.Queue()

    async def open(self) -> None:
        """Open all connections."""
        for _ in range(self._count):
            self._free.put_nowait(await Connection.open("127.0.0.1", self._port))

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Connection]:
        """A connection for exclusive use."""
        connection = await self._free.get()
        try:
            yield connection
        finally:
            self._free.put_nowait(connection)

    def close(self) -> None:
        """Close all connections."""
        while not self._free.empty():
            self._free.get_nowait().close()
