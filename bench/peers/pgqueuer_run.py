"""pgqueuer at its best: large batches, all of a batch at once, kept connections, the fast builder.

`python -m bench.peers.pgqueuer_run schema | fill FIRST COUNT | work`: `fill` enqueues letters, `work` sends what
waits and ends.
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
    """Enqueue letters, many in a statement."""
    async with asyncpg.create_pool(DATABASE_URL, min_size=1, max_size=1) as pool:
        queries = Queries(AsyncpgPoolDriver(pool))
        for start in range(first, first + count, FILL_BATCH_SIZE):
            numbers = range(start, min(start + FILL_BATCH_SIZE, first + count))
            letters = [
                json.dumps({"to": recipient(number), "data": template_context(number)}).encode() for number in numbers
            ]
            await queries.enqueue(["send"] * len(letters), list(letters), [0] * len(letters))


async def process_queue() -> None:
    """Send what waits."""
    connections = ConnectionPool(int(os.environ["BENCH_SMTP_PORT"]), CONNECTION_COUNT)
    await connections.open()
    async with asyncpg.create_pool(DATABASE_URL, min_size=2, max_size=8) as pool:
        worker = PgQueuer(AsyncpgPoolDriver(pool))

        @worker.entrypoint("send")
        async def send(job: Job) -> None:
            letter = json.loads(job.payload or b"")
            message = build_fast(letter["to"], letter["data"])
            async with connections.acquire() as connection:
                await connection.send(letter["to"], message)

        await worker.qm.run(dequeue_timeout=timedelta(seconds=1), batch_size=BATCH_SIZE, mode=QueueExecutionMode.drain)
    connections.close()


async def create_schema() -> None:
    """Make the tables."""
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
