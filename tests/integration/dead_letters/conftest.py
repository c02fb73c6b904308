from __future__ import annotations

from collections.abc import Iterator

import pytest

from backline.dead_letters.store import DeadLetterStore
from tests.integration.dead_letters.support import FakeAirflow
from tests.integration.outbox.support import Outbox


@pytest.fixture
def outbox(database: str) -> Iterator[Outbox]:
    """An outbox in a new database."""
    with Outbox(database) as made:
        yield made


@pytest.fixture
def store(database: str) -> Iterator[DeadLetterStore]:
    with DeadLetterStore.open(database) as made:
        yield made


@pytest.fixture
def airflow() -> FakeAirflow:
    return FakeAirflow()
