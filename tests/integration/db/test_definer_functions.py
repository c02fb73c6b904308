"""Functions that run with their owner's rights: a caller's temporary objects must not shadow what they use."""

from __future__ import annotations

import psycopg

DEFINER_FUNCTIONS = """
SELECT p.oid::regprocedure::text, p.proconfig
FROM pg_proc AS p WHERE p.prosecdef AND p.pronamespace = 'backline'::regnamespace
"""


def test_each_pins_its_search_path_with_pg_temp_last(database: str) -> None:
    with psycopg.connect(database) as connection:
        functions = connection.execute(DEFINER_FUNCTIONS).fetchall()
    assert functions
    assert [name for name, config in functions if config != ["search_path=pg_catalog, pg_temp"]] == []
