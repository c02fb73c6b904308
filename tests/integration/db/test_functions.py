"""Who may call the schema's functions, and what those that run with their owner's rights see of a caller's objects."""

from __future__ import annotations

import psycopg

DEFINER_FUNCTIONS = """
SELECT p.oid::regprocedure::text, p.proconfig
FROM pg_proc AS p WHERE p.prosecdef AND p.pronamespace = 'backline'::regnamespace
"""
CALLABLE_BY_EVERYBODY = """
SELECT p.oid::regprocedure::text
FROM pg_proc AS p WHERE p.pronamespace = 'backline'::regnamespace AND has_function_privilege('public', p.oid, 'EXECUTE')
"""


def test_each_pins_its_search_path_with_pg_temp_last(database: str) -> None:
    with psycopg.connect(database) as connection:
        functions = connection.execute(DEFINER_FUNCTIONS).fetchall()
    assert functions
    assert [name for name, config in functions if config != ["search_path=pg_catalog, pg_temp"]] == []


def test_nothing_is_executable_by_everybody(database: str) -> None:
    with psycopg.connect(database) as connection:
        assert connection.execute(CALLABLE_BY_EVERYBODY).fetchall() == []
