"""A pgqueuer producer: `python -m bench.peers.enqueue_pgqueuer COUNT BATCH` prints the seconds for COUNT emails."""

# mypy: disable-error-code="import-not-found,import-untyped"
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
    """Enqueue many jobs per statement; creates missing tables."""
    connection = await asyncpg.connect(os.environ["BENCH_DATABASE_URL"])
    queries = Queries(AsyncpgDriver(connection))
    if not await connection.fetchval("SELECT to_regclass('pgqueuer') IS NOT NULL"):
        await queries.install()
    emails = [{"to": recipient(number), "data": template_context(number)} for number in range(count)]
    started = time.perf_counter()
    for first in range(0, count, batch):
        payloads: list[bytes | None] = [json.dumps(email).encode() for email in emails[first : first + batch]]
        await queries.enqueue(["send"] * len(payloads), payloads, [0] * len(payloads))
    print(time.perf_counter() - started)
    await connection.close()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
