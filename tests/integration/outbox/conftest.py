from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.outbox.support import Outbox


@pytest.fixture
def outbox(database: str) -> Iterator[Outbox]:
    """An outbox of its own."""
    with Outbox(database) as made:
        yield made
