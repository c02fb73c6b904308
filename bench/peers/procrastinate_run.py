"""Runs procrastinate's side: `python -m bench.peers.procrastinate_run schema | fill FIRST COUNT | work`.

`fill` defers emails, `work` sends all that are queued and ends.
"""

# mypy: disable-error-code="import-not-found,import-untyped,untyped-decorator"
from __future__ import annotations

import sys

import uvloop

from bench.peers.emails import recipient, template_context
from bench.peers.procrastinate_app import app, connections, send

CONCURRENCY = 32
FILL_BATCH_SIZE = 1000


async def enqueue_emails(first: int, count: int) -> None:
    """Defer emails, many per statement."""
    async with app.open_async():
        for start in range(first, first + count, FILL_BATCH_SIZE):
            numbers = range(start, min(start + FILL_BATCH_SIZE, first + count))
            await send.batch_defer_async(
                *({"to": recipient(number), "data": template_context(number)} for number in numbers)
            )


async def process_queue() -> None:
    """Send all queued emails."""
    async with app.open_async():
        await connections.open()
        await app.run_worker_async(
            concurrency=CONCURRENCY, wait=False, listen_notify=False, fetch_job_polling_interval=0.02
        )
        connections.close()


async def create_schema() -> None:
    """Create the tables."""
    async with app.open_async():
        await app.schema_manager.apply_schema_async()


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["schema"]:
            uvloop.run(create_schema())
        case ["fill", first, count]:
            uvloop.run(enqueue_emails(int(first), int(count)))
        case ["work"]:
            uvloop.run(process_queue())
