"""Users' devices in the app's own tables, accessed by named statements of include/sql/identity.sql."""

from __future__ import annotations

from collections.abc import Callable

import psycopg

from backline.db.connect import Database
from backline.db.statements import statement
from backline.errors import InvalidInput, Misconfigured


class DeviceStore:
    """Uses the statements `push_tokens` and `push_token_remove`; raises DatabaseFailure if the database is unavailable."""

    def __init__(self, dsn: Callable[[], str]) -> None:
        self._dsn = dsn
        self._database: Database | None = None

    async def list_tokens(self, user_id: str) -> list[str]:
        """The tokens of a user's devices; InvalidInput for the field `to` if the id is malformed."""
        try:
            rows = await self._get_database().fetch(statement("identity", "push_tokens"), {"id": user_id})
        except Misconfigured as exc:
            if isinstance(exc.__cause__, psycopg.DataError):
                raise InvalidInput(
                    "to", f"{user_id!r} is not a user id that the statement push_tokens accepts"
                ) from None
            raise
        return [str(row["token"]) for row in rows]

    async def remove(self, token: str, reason: str) -> None:
        """Remove a device that no longer exists; does nothing if it was removed already."""
        await self._get_database().fetch(statement("identity", "push_token_remove"), {"token": token, "reason": reason})

    async def close(self) -> None:
        """Close the connection; the next use reopens it. Never raises."""
        if self._database is not None:
            await self._database.close()

    def _get_database(self) -> Database:
        if self._database is None:
            self._database = Database(self._dsn(), name="push devices", retry_timeout=5.0)
        return self._database
