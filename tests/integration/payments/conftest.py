from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.rows import dict_row

from backline.payments.stripe_client import StripeProvider
from tests.integration.channels.sandbox import Sandbox
from tests.integration.payments.support import Account, Shop


@pytest.fixture(scope="session")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    found = Sandbox.start(Path(tmp_path_factory.mktemp("payments")) / "mail")
    yield found
    found.stop()


@pytest.fixture
def account(sandbox: Sandbox) -> Account:
    """An account without payments, whose provider is well."""
    found = Account(sandbox)
    found.clear()
    return found


@pytest.fixture
def provider(account: Account) -> StripeProvider:
    return account.provider()


@pytest.fixture
def shop(database: str) -> Iterator[Shop]:
    with psycopg.connect(database, autocommit=True, row_factory=dict_row) as connection:
        yield Shop(connection)
