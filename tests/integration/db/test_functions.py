"""Who may call the schema's functions, and what those that run with their owner's rights see of a caller's objects."""

from __future__ import annotations

from typing import LiteralString
from zoneinfo import ZoneInfo

import psycopg
import pytest

from backline.channels.registry import definition
from backline.preferences.quiet_hours import find_time_zone

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


@pytest.mark.parametrize(
    ("call", "field"),
    [
        ("suppress('Email', 'ann@example.com')", "channel"),
        ("suppress(NULL, 'ann@example.com')", "channel"),
        ("suppress('fax', '+491511234567')", "channel"),
        ("suppress('email', 'ann@b\u00fccher.example')", "address"),
        ("suppress('email', E'ann@example.com\\r\\nBcc: eve@example.com')", "address"),
        ("suppress('email', '')", "address"),
        ("suppress('email', NULL)", "address"),
        ("suppress('sms', '+49 (0)151 12345678')", "address"),
        ("opt_out('email', 'ann', 'newsletter')", "address"),
        ("opt_in('sms', '0151 12345678')", "address"),
        ("set_preference('email', 'a b@example.com')", "address"),
        ("set_preference('email', 'ann@example.com', 'Nowhere/City')", "zone"),
    ],
)
def test_an_address_that_would_be_stored_without_effect_is_refused_by_field(
    database: str, call: LiteralString, field: str
) -> None:
    with (
        psycopg.connect(database) as connection,
        pytest.raises(psycopg.errors.InvalidParameterValue, match=f"backline: {field}: ") as caught,
    ):
        connection.execute(f"SELECT backline.{call}")
    assert caught.value.diag.column_name == field


def test_a_zone_is_stored_under_its_own_name_and_a_key_as_python_has_it(database: str) -> None:
    with psycopg.connect(database) as connection:
        connection.execute(
            "SELECT backline.set_preference('sms', ' +491511234567 ', 'europe/berlin', '21:00', '08:00')"
        )
        connection.execute("SELECT backline.suppress('email', 'Ann <Ann@XN--BCHER-KVA.example>')")
        stored = connection.execute("SELECT address, zone FROM backline.recipient_preference").fetchall()
        assert stored == [("+491511234567", "Europe/Berlin")]
        [(key,)] = connection.execute("SELECT address FROM backline.suppression").fetchall()
    assert key == definition("email").parse_address_key("ann@b\u00fccher.example", "address")
    assert find_time_zone("EUROPE/berlin") == ZoneInfo("Europe/Berlin")
