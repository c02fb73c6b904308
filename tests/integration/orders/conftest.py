from __future__ import annotations

from collections.abc import Iterator

import pytest

from backline.db.connect import session
from tests.integration.orders.support import Shop
from tests.integration.payments.conftest import account, provider, sandbox

__all__ = ["account", "provider", "sandbox"]


@pytest.fixture
def shop(database: str) -> Iterator[Shop]:
    with session(database, name="test") as connection:
        yield Shop(connection)
