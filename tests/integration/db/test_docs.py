"""The SQL in docs/operating.md runs on a migrated database."""

from __future__ import annotations

import re

import psycopg
import pytest

from backline.settings import ROOT

BLOCKS = re.findall(r"^```sql\n(.*?)^```", (ROOT / "docs" / "operating.md").read_text(), flags=re.MULTILINE | re.DOTALL)


def test_blocks_are_found() -> None:
    assert len(BLOCKS) >= 5


@pytest.mark.parametrize("sql", BLOCKS)
def test_each_block_runs(sql: str, database: str) -> None:
    with psycopg.connect(database) as connection:
        connection.execute(sql)
