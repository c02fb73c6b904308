from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from backline.db.migrate import MIGRATIONS_FOLDER, migrate, pending, read_migrations
from backline.errors import DatabaseFailure, Misconfigured
from backline.messages import registry

NAMES = [path.stem for path in sorted(MIGRATIONS_FOLDER.glob("*.sql"))]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the migrations to change."""
    return Path(shutil.copytree(MIGRATIONS_FOLDER, tmp_path / "migrations"))


def values(dsn: str, query: LiteralString) -> list[object]:
    with psycopg.connect(dsn) as connection:
        return [row[0] for row in connection.execute(query)]


def test_an_empty_database_gets_all_migrations_and_types(empty_database: str) -> None:
    assert pending(empty_database) == NAMES
    assert migrate(empty_database) == NAMES
    assert pending(empty_database) == []
    known = values(empty_database, "SELECT name FROM backline.message_type ORDER BY name")
    assert known == [kind.type_name for kind in registry.all_types()]


def test_a_lock_that_another_session_holds_ends_with_an_error(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backline.db.migrate.LOCK_TIMEOUT_SECONDS", 1)
    with psycopg.connect(database) as other:
        other.execute("SELECT pg_advisory_xact_lock(hashtext('backline.migration'))")
        with pytest.raises(DatabaseFailure, match="another session has held the migration lock of backline for 1 s"):
            migrate(database)
    assert migrate(database) == []


def test_a_second_run_applies_nothing_and_repairs_the_types(database: str) -> None:
    with psycopg.connect(database) as connection:
        connection.execute("UPDATE backline.message_type SET field_names = '{}' WHERE name = 'email'")
    assert migrate(database) == []
    [names] = values(database, "SELECT field_names FROM backline.message_type WHERE name = 'email'")
    assert isinstance(names, list)
    assert "subject" in names


def test_a_changed_file_is_an_error_that_names_it(database: str, folder: Path) -> None:
    first = folder / f"{NAMES[0]}.sql"
    first.write_text(first.read_text() + "\n-- later\n")
    with pytest.raises(Misconfigured, match=rf"{NAMES[0]}\.sql was changed after it was applied"):
        migrate(database, folder)


def test_a_gap_in_the_numbers_is_an_error(empty_database: str, folder: Path) -> None:
    (folder / f"{len(NAMES) + 2:04d}_late.sql").write_text("SELECT 1;\n")
    with pytest.raises(Misconfigured, match="without gaps"):
        migrate(empty_database, folder)


def test_a_number_used_twice_is_an_error(folder: Path) -> None:
    (folder / "0001_twin.sql").write_text("SELECT 1;\n")
    with pytest.raises(Misconfigured, match="without gaps or repeats"):
        read_migrations(folder)


def test_a_name_without_number_is_an_error(folder: Path) -> None:
    (folder / "more.sql").write_text("SELECT 1;\n")
    with pytest.raises(Misconfigured, match=r"more\.sql: name it NNNN_"):
        read_migrations(folder)


def test_code_older_than_the_database_is_an_error(database: str, folder: Path) -> None:
    (folder / f"{NAMES[-1]}.sql").unlink()
    with pytest.raises(Misconfigured, match=f"{NAMES[-1]}.*this code is older than the database"):
        migrate(database, folder)


def test_a_new_file_is_applied_alone(database: str, folder: Path) -> None:
    new = f"{len(NAMES) + 1:04d}_more"
    (folder / f"{new}.sql").write_text("CREATE TABLE backline.more ();\nCREATE TABLE backline.yet_more ();\n")
    assert pending(database, folder) == [new]
    assert migrate(database, folder) == [new]
    assert values(database, "SELECT to_regclass('backline.yet_more') IS NOT NULL") == [True]


def test_a_failing_migration_rolls_all_back(empty_database: str, folder: Path) -> None:
    (folder / f"{len(NAMES) + 1:04d}_broken.sql").write_text("CREATE TABLE backline.half ();\nSELECT 1 / 0;\n")
    with pytest.raises(Misconfigured, match="division by zero"):
        migrate(empty_database, folder)
    assert values(empty_database, "SELECT nspname FROM pg_namespace WHERE nspname = 'backline'") == []
    assert migrate(empty_database) == NAMES


def test_a_failing_migration_is_named(empty_database: str, folder: Path) -> None:
    (folder / f"{len(NAMES) + 1:04d}_broken.sql").write_text("SELECT 1 / 0;\n")
    with pytest.raises(Misconfigured, match="broken"):
        migrate(empty_database, folder)


def test_concurrent_migrations_both_succeed(empty_database: str) -> None:
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(migrate, [empty_database] * 2))
    assert sorted(results) == [[], NAMES]
    assert values(empty_database, "SELECT count(*) FROM backline.migration") == [len(NAMES)]


def test_a_database_that_is_not_utf_8_is_refused(server: str) -> None:
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute("CREATE DATABASE of_bytes TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'")
        try:
            with pytest.raises(Misconfigured, match="not in UTF-8"):
                migrate(make_conninfo(server, dbname="of_bytes"))
        finally:
            connection.execute("DROP DATABASE of_bytes")
