"""People's devices in the app's own tables, by named statements of include/sql/identity.sql."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import psycopg

from backline.db.connect import Database
from backline.db.statements import statement
from backline.errors import InvalidInput, Misconfigured


class DeviceStore(Protocol):
    """Who has which devices."""

    async def list_tokens(self, user_id: str) -> list[str]:
        """The tokens of a person's devices; raises InvalidInput for the field `to` if there can be no such person."""

    async def remove(self, token: str, reason: str) -> None:
        """Take out a device that is gone."""

    async def close(self) -> None:
        """Never raises."""


class SqlDeviceStore:
    """As the statements `push_tokens` and `push_token_remove` know them, over one connection opened at first use."""

    def __init__(self, dsn: Callable[[], str]) -> None:
        self._dsn = dsn
        self._database: Database | None = None

    async def list_tokens(self, user_id: str) -> list[str]:
        """As Devices; DatabaseFailure if the database is away."""
        try:
            rows = await self._get_database().fetch(statement("identity", "push_tokens"), {"id": user_id})
        except Misconfigured as exc:
            if isinstance(exc.__cause__, psycopg.DataError):
                problem = f"{user_id!r} is not a person's id of the kind that the statement push_tokens takes"
                raise InvalidInput("to", problem) from None
            raise
        return [str(row["token"]) for row in rows]

    async def remove(self, token: str, reason: str) -> None:
        """As Devices; DatabaseFailure if the database is away. Doing it twice is no error."""
        await self._get_database().fetch(statement("identity", "push_token_remove"), {"token": token, "reason": reason})

    async def close(self) -> None:
        """Close the connection; the next use opens another."""
        if self._database is not None:
            await self._database.close()

    def _get_database(self) -> Database:
        if self._database is None:
            self._database = Database(self._dsn(), name="push devices", retry_timeout=5.0)
        return self._database
