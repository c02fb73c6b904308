"""Liveness and readiness for load balancers, without a login."""

from __future__ import annotations

import logging
import time
from threading import Lock

from fastapi import APIRouter

from backline.db.migrate import read_migrations
from backline.db.statements import statement
from backline.errors import BacklineError
from backline.web import schemas
from backline.web.database import Connections, Database
from backline.web.problems import ApiError
from backline.web.roles import public_route

log = logging.getLogger(__name__)

router = APIRouter(tags=["health"])
CACHE_TTL_SECONDS = 1.0


class Readiness:
    """Whether the database is reachable and migrated; checked at most once a second."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._checked_at = float("-inf")
        self._ready = False

    def check(self, database: Connections) -> bool:
        """The result of the last second, or a new one."""
        with self._lock:
            if time.monotonic() - self._checked_at > CACHE_TTL_SECONDS:
                self._ready = _is_ready(database)
                self._checked_at = time.monotonic()
            return self._ready


_readiness = Readiness()


@router.get("/livez", **public_route("Whether the process is alive", schemas.Status))
async def livez() -> schemas.Status:
    """Responds as long as the process is alive; checks nothing else."""
    return schemas.Status()


@router.get("/readyz", **public_route("Whether it can serve requests", schemas.Status))
def readyz(database: Database) -> schemas.Status:
    """The database is reachable and migrated; 503 if not."""
    if not _readiness.check(database):
        raise ApiError(503, "Not ready")
    return schemas.Status()


def _is_ready(database: Connections) -> bool:
    try:
        with database.transaction() as connection:
            applied = connection.execute(statement("messages", "schema_version")).fetchall()[0]["number"]
    except BacklineError as exc:
        log.warning("not ready: %s", exc)
        return False
    latest = read_migrations()[-1].number
    if applied < latest:
        log.warning("not ready: the database is at migration %s of %s; run ./backline setup", applied, latest)
    return int(applied) >= latest
