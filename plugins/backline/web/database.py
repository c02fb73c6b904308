"""The api-server's connections to the app's database: few, opened when they are needed, closed when they are not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import psycopg
from fastapi import Request
from psycopg.rows import DictRow, dict_row
from psycopg.types.array import ListBinaryDumper
from psycopg_pool import ConnectionPool

from backline.airflow.connections import app_dsn
from backline.db.connect import translate_errors
from backline.encryption import Encryptor
from backline.web.settings import HttpSettings


class Connections:
    """A bounded pool. Opened at its first use: a database that is away must not keep Airflow from starting."""

    def __init__(self, config: HttpSettings) -> None:
        self._config = config
        self._pool: ConnectionPool[psycopg.Connection[DictRow]] | None = None
        self._lock = Lock()

    @contextmanager
    def transaction(self) -> Iterator[psycopg.Connection[DictRow]]:
        """A connection in a transaction that commits at the end, or rolls back on any error.

        DatabaseFailure if none is free in time or the database is away.
        """
        with translate_errors(), self._get_pool().connection() as connection:
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


def connections(request: Request) -> Connections:
    """The app's connections."""
    found: Connections = request.app.state.connections
    return found


def encryptor(request: Request) -> Encryptor:
    """Seals secret fields; made once. Misconfigured if there are no keys."""
    state = request.app.state
    if not hasattr(state, "sealer"):
        state.sealer = Encryptor.from_environment()
    made: Encryptor = state.sealer
    return made


def _configure(connection: psycopg.Connection[Any]) -> None:
    # Arrays in binary: the text form escapes every quote of every payload, ten times the work of all else.
    connection.adapters.register_dumper(list, ListBinaryDumper)
