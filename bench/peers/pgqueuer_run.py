"""Optimized pgqueuer: large batches processed concurrently, persistent connections, the fast builder.

`python -m bench.peers.pgqueuer_run schema | fill FIRST COUNT | work`: `fill` enqueues emails, `work` sends all that are
queued and ends.
"""

# mypy: disable-error-code="import-not-found,import-untyped,untyped-decorator"
from __future__ import annotations

import json
import os
import sys
from datetime import timedelta

import asyncpg
import uvloop
from pgqueuer import AsyncpgPoolDriver, Job, PgQueuer, Queries
from pgqueuer.types import QueueExecutionMode

from bench.peers.emails import build_fast, recipient, template_context
from bench.peers.smtp import ConnectionPool

BATCH_SIZE = 250
CONNECTION_COUNT = 8
FILL_BATCH_SIZE = 5000
DATABASE_URL = os.environ["BENCH_DATABASE_URL"]


async def enqueue_emails(first: int, count: int) -> None:
    """Enqueue emails, many per statement."""
    async with asyncpg.create_pool(DATABASE_URL, min_size=1, max_size=1) as pool:
        queries = Queries(AsyncpgPoolDriver(pool))
        for start in range(first, first + count, FILL_BATCH_SIZE):
            numbers = range(start, min(start + FILL_BATCH_SIZE, first + count))
            emails = [
                json.dumps({"to": recipient(number), "data": template_context(number)}).encode() for number in numbers
            ]
            await queries.enqueue(["send"] * len(emails), list(emails), [0] * len(emails))


async def process_queue() -> None:
    """Send all queued emails."""
    connections = ConnectionPool(int(os.environ["BENCH_SMTP_PORT"]), CONNECTION_COUNT)
    await connections.open()
    async with asyncpg.create_pool(DATABASE_URL, min_size=2, max_size=8) as pool:
        worker = PgQueuer(AsyncpgPoolDriver(pool))

        @worker.entrypoint("send")
        async def send(job: Job) -> None:
            email = json.loads(job.payload or b"")
            message = build_fast(email["to"], email["data"])
            async with connections.acquire() as connection:
                await connection.send(email["to"], message)

        await worker.qm.run(dequeue_timeout=timedelta(seconds=1), batch_size=BATCH_SIZE, mode=QueueExecutionMode.drain)
    connections.close()


async def create_schema() -> None:
    """Create the tables."""
    async with asyncpg.create_pool(DATABASE_URL, min_size=1, max_size=1) as pool:
        await Queries(AsyncpgPoolDriver(pool)).install()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["schema"]:
            uvloop.run(create_schema())
        case ["fill", first, count]:
            uvloop.run(enqueue_emails(int(first), int(count)))
        case ["work"]:
            uvloop.run(process_queue())
