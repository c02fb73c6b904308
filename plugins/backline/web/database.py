"""The api-server's connections to the app's database: a small pool that opens connections when they are needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Annotated, Any

import psycopg
from fastapi import Depends, Request
from psycopg.rows import DictRow, dict_row
from psycopg.types.array import ListBinaryDumper
from psycopg_pool import ConnectionPool

from backline.airflow.connections import app_dsn
from backline.db.connect import prepare_connection, translate_errors
from backline.db.statements import statement
from backline.web.settings import HttpSettings


class Connections:
    """A bounded pool, opened on first use: Airflow must start even if the database is unavailable."""

    def __init__(self, config: HttpSettings) -> None:
        self._config = config
        self._pool: ConnectionPool[psycopg.Connection[DictRow]] | None = None
        self._lock = Lock()

    @contextmanager
    def transaction(self) -> Iterator[psycopg.Connection[DictRow]]:
        """A connection in a transaction that waits only briefly for locks: others need the connection.

        DatabaseFailure if none is free in time, a lock is held, or the database is unavailable.
        """
        with translate_errors(), self._get_pool().connection() as connection:
            # Not of the session: a transaction pooler would hand it to others.
            connection.execute(statement("jobs", "lock_timeout_set"), {"seconds": self._config.lock_timeout_seconds})
            yield connection

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()

    def _get_pool(self) -> ConnectionPool[psycopg.Connection[DictRow]]:
        with self._lock:
            if self._pool is None:
                self._pool = ConnectionPool(
                    app_dsn(),
                    kwargs={"row_factory": dict_row, "application_name": "backline api"},
                    min_size=0,
                    max_size=self._config.max_db_connections,
                    timeout=self._config.pool_timeout_seconds,
                    configure=_configure,
                    check=ConnectionPool.check_connection,
                    open=True,
                )
            return self._pool


async def connections(request: Request) -> Connections:
    """The app's connections."""
    found: Connections = request.app.state.connections
    return found


Database = Annotated[Connections, Depends(connections)]


def _configure(connection: psycopg.Connection[Any]) -> None:
    if fix := prepare_connection(connection):
        connection.execute(fix)
        connection.commit()
    # Arrays in binary format: the text format escapes every quote of every payload, which takes ten times as long.
    connection.adapters.register_dumper(list, ListBinaryDumper)
