"""A procrastinate producer: `python -m bench.peers.enqueue_procrastinate COUNT BATCH` prints the seconds for COUNT emails."""

from __future__ import annotations

import asyncio
import sys
import time

from bench.peers.emails import recipient, template_context
from bench.peers.procrastinate_app import app, send


async def main(count: int, batch: int) -> None:
    """Defer many jobs per statement."""
    emails = [{"to": recipient(number), "data": template_context(number)} for number in range(count)]
    async with app.open_async():
        await send.defer_async(**emails[0])
        started = time.perf_counter()
        for first in range(0, count, batch):
            await send.batch_defer_async(*emails[first : first + batch])
        print(time.perf_counter() - started)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))
