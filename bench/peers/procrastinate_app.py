"""Optimized procrastinate: many concurrent tasks per worker, persistent connections, the fast builder."""

# mypy: disable-error-code="import-not-found,import-untyped,untyped-decorator"
from __future__ import annotations

import os
from typing import Any

from procrastinate import App, PsycopgConnector

from bench.peers.emails import build_fast
from bench.peers.smtp import ConnectionPool

CONNECTION_COUNT = 8
app = App(connector=PsycopgConnector(conninfo=os.environ["BENCH_DATABASE_URL"], min_size=4, max_size=16))
connections = ConnectionPool(int(os.environ["BENCH_SMTP_PORT"]), CONNECTION_COUNT)


@app.task(name="send")
async def send(to: str, data: dict[str, Any]) -> None:
    """Send one email."""
    message = build_fast(to, data)
    async with connections.acquire() as connection:
        await connection.send(to, message)
