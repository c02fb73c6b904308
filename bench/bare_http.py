"""A bare HTTP client: posts one body again and again over kept connections, and remembers nothing.

`python -m bench.bare_http URL CONTENT_TYPE BODY COUNT CONNECTIONS` prints the seconds that it took.
"""

from __future__ import annotations

import asyncio
import sys
import time

import aiohttp
import uvloop

OK = range(200, 300)


async def post(url: str, content_type: str, body: bytes, count: int, connections: int) -> float:
    """Post so many requests, as many at a time as there are connections; returns seconds."""
    left = count
    headers = {"Content-Type": content_type}

    async def one_after_the_other(client: aiohttp.ClientSession) -> None:
        nonlocal left
        while left > 0:
            left -= 1
            async with client.post(url, data=body, headers=headers) as answer:
                await answer.read()
                if answer.status not in OK:
                    raise SystemExit(f"{url} answered {answer.status}")

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=connections)) as client:
        begun = time.monotonic()
        await asyncio.gather(*(one_after_the_other(client) for _ in range(connections)))
        return time.monotonic() - begun


if __name__ == "__main__":
    url, content_type, body, count, connections = sys.argv[1:]
    print(uvloop.run(post(url, content_type, body.encode(), int(count), int(connections))))
