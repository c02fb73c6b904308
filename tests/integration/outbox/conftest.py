from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from psycopg.conninfo import make_conninfo

from tests.integration.conftest import create, drop
from tests.integration.outbox.support import Outbox


@pytest.fixture(scope="session")
def shared_database(server: str, template: str) -> Iterator[str]:
    """A migrated database for tests that leave nothing behind but rows: making one for each would take most of their time."""
    name = f"backline_shared_{uuid.uuid4().hex[:12]}"
    create(server, name, template)
    yield make_conninfo(server, dbname=name)
    drop(server, name)


@pytest.fixture
def outbox(shared_database: str) -> Iterator[Outbox]:
    """An empty outbox."""
    with Outbox(shared_database) as made:
        made.truncate()
        yield made
