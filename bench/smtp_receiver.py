"""An SMTP server that accepts and discards everything, and prints when each message arrived.

`python -m bench.smtp_receiver PORT` prints one line per message: its first recipient, and the time at which its last
byte arrived, on the clock that all processes of a machine share (CLOCK_MONOTONIC).
"""

from __future__ import annotations

import asyncio
import re
import sys
import time
from pathlib import Path

_RECIPIENT = re.compile(rb"RCPT TO:\s*<([^>]*)>", re.IGNORECASE)
_EHLO = b"250-bench.example.com\r\n250-PIPELINING\r\n250-SIZE 10485760\r\n250 8BITMIME\r\n"


async def serve(port: int) -> None:
    """Listen on the loopback interface until terminated."""
    server = await asyncio.start_server(_handle_connection, "127.0.0.1", port, limit=2**24)
    async with server:
        await server.serve_forever()


async def _handle_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        writer.write(b"220 bench.example.com ESMTP\r\n")
        await _handle_commands(reader, writer)
    except (OSError, asyncio.IncompleteReadError):
        pass  # the client hung up
    finally:
        writer.close()


async def _handle_commands(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    to = b""
    while True:
        line = await reader.readuntil(b"\r\n")
        match line[:4].upper():
            case b"EHLO":
                writer.write(_EHLO)
            case b"RCPT":
                if not to and (found := _RECIPIENT.match(line)):
                    to = found[1]
                writer.write(b"250 2.1.5 Ok\r\n")
            case b"DATA":
                writer.write(b"354 Go on\r\n")
                await reader.readuntil(b"\r\n.\r\n")
                at = time.monotonic()
                writer.write(b"250 2.0.0 Accepted\r\n")
                print(to.decode(), at, flush=True)
                to = b""
            case b"QUIT":
                writer.write(b"221 2.0.0 Bye\r\n")
                return
            case _:
                writer.write(b"250 2.0.0 Ok\r\n")


def read_arrivals(log: Path) -> dict[str, float]:
    """Read a receiver's log: recipient → arrival time."""
    lines = log.read_text(encoding="utf-8").rpartition("\n")[0].splitlines()
    return {to: float(at) for to, _, at in (line.partition(" ") for line in lines)}


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1])))
