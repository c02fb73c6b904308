"""One producer of pgqueuer's: `... enqueue_pgqueuer COUNT BATCH` prints the seconds that so many letters took."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time

import asyncpg
from pgqueuer import AsyncpgDriver, Queries

from bench.peers.emails import recipient, template_context


async def main(count: int, batch: int) -> None:
    """Its set-based form, many jobs a statement; the tables are made when they are missing."""
    connection = await asyncpg.connect(os.environ["BENCH_DATABASE_URL"])
    queries = Queries(AsyncpgDriver(connection))
    if not await connection.fetchval("SELECT to_regclass('pgqueuer') IS NOT NULL"):
        await queries.install()
    letters = [{"to": recipient(number), "data": template_context(number)} for number in range(count)]
    started = time.perf_counter()
    for first in range(0, count, batch):
        some = letters[first : first + batch]
        payloads: list[bytes | None] = [json.dumps(letter).encode() for letter in some]
        await queries.enqueue(["send"] * len(some), payloads, [0] * len(some))
    print(time.perf_counter() - started)
    await connection.close()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
