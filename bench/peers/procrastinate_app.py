"""procrastinate at its best: many tasks at once in each worker, kept connections, the fast builder."""

# mypy: disable-error-code="import-not-found,import-untyped,untyped-decorator"
from __future__ import annotations

import os
from typing import Any

from procrastinate import App, PsycopgConnector

from bench.peers.letters import fast_built
from bench.peers.smtp import Connections

CONNECTIONS = 8
app = App(connector=PsycopgConnector(conninfo=os.environ["BENCH_DATABASE_URL"], min_size=4, max_size=16))
connections = Connections(int(os.environ["BENCH_SMTP_PORT"]), CONNECTIONS)


@app.task(name="send")
async def send(to: str, data: dict[str, Any]) -> None:
    """One letter."""
    message = fast_built(to, data)
    async with connections.one() as connection:
        await connection.send(to, message)
