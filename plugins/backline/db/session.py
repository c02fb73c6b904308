"""One synchronous connection, for work that is short and happens now: callbacks, commands, requests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeAlias

import psycopg
from psycopg.rows import DictRow, dict_row

from backline.db.connect import translate_errors

Session: TypeAlias = psycopg.Connection[DictRow]


@contextmanager
def session(dsn: str, *, name: str, connect_timeout: int = 5) -> Iterator[Session]:
    """A connection in autocommit, closed at the end; the driver's errors come as ours, those of the body too."""
    with (
        translate_errors(),
        psycopg.connect(
            dsn,
            autocommit=True,
            row_factory=dict_row,
            connect_timeout=connect_timeout,
            application_name=f"backline {name}"[:63],
        ) as connection,
    ):
        yield connection
