"""Who may call the schema's functions, and what those that run with their owner's rights see of a caller's objects."""

from __future__ import annotations

from typing import LiteralString, TypeAlias
from zoneinfo import ZoneInfo

import psycopg
import pytest

from backline.channels.registry import definition
from backline.preferences.quiet_hours import find_time_zone

FUNCTIONS = """
SELECT n.nspname, p.oid::regprocedure::text, p.prosecdef, p.proconfig, has_function_privilege('public', p.oid, 'EXECUTE')
FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace
WHERE n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%'
    AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')
"""
"""Those of all schemas, the reference app's among them, except the server's own and extensions'."""
GRANTED_TO_EVERYBODY = """
SELECT c.oid::regclass::text FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
CROSS JOIN LATERAL aclexplode(c.relacl) AS granted
WHERE granted.grantee = 0 AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%'
"""


Functions: TypeAlias = list[tuple[str, str, bool, list[str] | None, bool]]
"""Schema, name, whether it runs with its owner's rights, settings, whether everybody may execute it."""


@pytest.fixture
def functions(database: str) -> Functions:
    with psycopg.connect(database) as connection:
        found = connection.execute(FUNCTIONS).fetchall()
    assert {schema for schema, *_ in found} == {"backline", "app"}
    return found


def test_each_pins_its_search_path_with_pg_temp_last(
    functions: Functions,
) -> None:
    pinned = {name: settings for _, name, definer, settings, _ in functions if definer}
    assert pinned
    assert {name for name, settings in pinned.items() if settings != ["search_path=pg_catalog, pg_temp"]} == set()


def test_nothing_is_open_to_everybody(database: str, functions: Functions) -> None:
    assert [name for _, name, _, _, executable in functions if executable] == []
    with psycopg.connect(database) as connection:
        assert connection.execute(GRANTED_TO_EVERYBODY).fetchall() == []


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
        ("set_preference('email', 'ann@example.com', quiet_from => '21:00:30', quiet_until => '08:00')", "quiet_from"),
        ("set_preference('email', 'ann@example.com', quiet_from => '21:00')", "quiet_until"),
        ("set_preference('email', 'ann@example.com', per_day => 1001)", "per_day"),
        ("suppress('email', 'ann@example.com', until => 'infinity')", "until"),
        ("opt_out('email', 'ann@example.com', 'no such')", "topic"),
        ("opt_in('email', 'ann@example.com', NULL)", "topic"),
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
