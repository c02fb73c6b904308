from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.subscriptions.support import Shop


@pytest.fixture
def shop(database: str) -> Iterator[Shop]:
    """A shop in a database of the test's own."""
    with Shop(database) as made:
        yield made
