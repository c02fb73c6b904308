"""Liveness and readiness for load balancers, without a login."""

from __future__ import annotations

import logging
import time
from functools import lru_cache

from backline.db.migrate import read_migrations
from backline.db.statements import statement
from backline.errors import BacklineError
from backline.web import schemas
from backline.web.bodies import checked_router
from backline.web.database import Connections, Database
from backline.web.problems import ApiError
from backline.web.roles import public_route

log = logging.getLogger(__name__)

router = checked_router(tags=["health"])
CACHE_TTL_SECONDS = 1.0


@router.get("/livez", **public_route("Whether the process is alive", schemas.Status))
async def livez() -> schemas.Status:
    """Responds as long as the process is alive; checks nothing else."""
    return schemas.Status()


@router.get("/readyz", **public_route("Whether it can serve requests", schemas.Status))
def readyz(database: Database) -> schemas.Status:
    """The database is reachable and migrated; 503 if not."""
    if not _check_once(database, int(time.monotonic() / CACHE_TTL_SECONDS)):
        raise ApiError(503, "Not ready")
    return schemas.Status()


@lru_cache(maxsize=1)
def _check_once(database: Connections, period: int) -> bool:  # noqa: ARG001 - the cache's key
    return is_ready(database)


def is_ready(database: Connections) -> bool:
    """Whether the database is reachable and migrated; the log has the reason if not."""
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
