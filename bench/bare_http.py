"""A bare HTTP client: posts one body repeatedly over persistent connections and stores nothing.

`python -m bench.bare_http URL CONTENT_TYPE BODY COUNT CONNECTIONS` prints the duration in seconds.
"""

from __future__ import annotations

import asyncio
import sys
import time

import aiohttp
import uvloop

OK = range(200, 300)


async def post(url: str, content_type: str, body: bytes, count: int, connections: int) -> float:
    """Post `count` requests over `connections` connections; returns seconds."""
    left = count
    headers = {"Content-Type": content_type}

    async def post_sequentially(client: aiohttp.ClientSession) -> None:
        nonlocal left
        while left > 0:
            left -= 1
            async with client.post(url, data=body, headers=headers) as response:
                await response.read()
                if response.status not in OK:
                    raise SystemExit(f"{url} returned {response.status}")

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=connections)) as client:
        started = time.monotonic()
        await asyncio.gather(*(post_sequentially(client) for _ in range(connections)))
        return time.monotonic() - started


if __name__ == "__main__":
    url, content_type, body, count, connections = sys.argv[1:]
    print(uvloop.run(post(url, content_type, body.encode(), int(count), int(connections))))
