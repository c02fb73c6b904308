from __future__ import annotations

from collections.abc import Iterator

import pytest

from backline.db.session import session
from tests.integration.orders.provider import Provider, serving
from tests.integration.orders.shop import Shop


@pytest.fixture
def shop(database: str) -> Iterator[Shop]:
    with session(database, name="test") as connection:
        yield Shop(connection)


@pytest.fixture
def provider() -> Iterator[Provider]:
    with serving() as provider:
        yield provider
