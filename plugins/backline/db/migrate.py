"""Schema migrations: numbered files of `include/sql/migrations/`, forward only, each in a transaction."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import psycopg

from backline.db.connect import translate, translated
from backline.db.statements import SQL_FOLDER
from backline.errors import Misconfigured, RetryableError

MIGRATIONS = SQL_FOLDER / "migrations"
_FILE = re.compile(r"^(\d{4})_(\w+)\.sql$")

_CREATE = """
CREATE SCHEMA IF NOT EXISTS backline;
CREATE TABLE IF NOT EXISTS backline.migration (
    number     integer PRIMARY KEY,
    name       text NOT NULL,
    checksum   text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
"""
# A transaction-level lock: safe behind a transaction pooler, and gone with the transaction.
_LOCK = "SELECT pg_advisory_xact_lock(hashtext('backline.migration'))"
_APPLIED = "SELECT number, name, checksum FROM backline.migration ORDER BY number"
_RECORD = "INSERT INTO backline.migration (number, name, checksum) VALUES (%s, %s, %s)"
_SERVER = "SELECT current_setting('server_version_num')::integer, current_setting('server_encoding') = 'UTF8'"
OLDEST_SERVER = 170000


@dataclass(frozen=True, slots=True)
class Migration:
    """One migration file."""

    number: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the file's text."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def read_migrations(folder: Path = MIGRATIONS) -> list[Migration]:
    """All migrations in order; Misconfigured on a bad name, a gap or a number used twice."""
    found = []
    for path in sorted(folder.glob("*.sql")):
        match = _FILE.match(path.name)
        if match is None:
            raise Misconfigured(f"{path}: name it NNNN_what_it_does.sql")
        found.append(Migration(int(match[1]), match[2], path.read_text(encoding="utf-8")))
    numbers = [migration.number for migration in found]
    if numbers != list(range(1, len(found) + 1)):
        raise Misconfigured(f"{folder}: numbers must run 0001, 0002, ... without gaps or repeats; found {numbers}")
    return found


def migrate(dsn: str, folder: Path = MIGRATIONS) -> list[str]:
    """Bring the database's schema up to date and make the message types known to it.

    Runs in one transaction under a lock, so two at once are safe, and a failure leaves nothing behind.
    Returns the names of the migrations applied. Misconfigured if an applied file has changed or gone.
    """
    from backline.messages.sync import sync_types

    migrations = read_migrations(folder)
    with translated(), psycopg.connect(dsn) as connection:
        _check_server(connection)
        connection.execute(_LOCK)
        connection.execute(_CREATE)
        applied = {number: (name, checksum) for number, name, checksum in connection.execute(_APPLIED)}
        for number, (name, checksum) in applied.items():
            _check_unchanged(migrations, number, name, checksum, folder)
        fresh = [migration for migration in migrations if migration.number not in applied]
        for migration in fresh:
            # The file is ours and not built from any input.
            with _named(migration, folder):
                connection.execute(migration.sql, prepare=False)
            connection.execute(_RECORD, (migration.number, migration.name, migration.checksum))
        sync_types(connection)
    return [f"{migration.number:04d}_{migration.name}" for migration in fresh]


def pending(dsn: str, folder: Path = MIGRATIONS) -> list[str]:
    """Names of the migrations that the database lacks."""
    with translated(), psycopg.connect(dsn) as connection:
        known = connection.execute("SELECT to_regclass('backline.migration') IS NOT NULL").fetchone()
        numbers = {row[0] for row in connection.execute(_APPLIED)} if known and known[0] else set()
    return [f"{m.number:04d}_{m.name}" for m in read_migrations(folder) if m.number not in numbers]


@contextmanager
def _named(migration: Migration, folder: Path) -> Iterator[None]:
    try:
        yield
    except psycopg.Error as exc:
        error = translate(exc)
        if isinstance(error, RetryableError):
            raise error from exc
        path = folder / f"{migration.number:04d}_{migration.name}.sql"
        raise Misconfigured(f"{path}: {error}; nothing of it was applied") from exc


def _check_server(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    version, is_utf8 = cast("tuple[int, bool]", connection.execute(_SERVER).fetchone())
    if version < OLDEST_SERVER:
        raise Misconfigured(f"PostgreSQL {version // 10000} is too old; Backline needs 17 or later")
    if not is_utf8:
        raise Misconfigured("the database is not in UTF-8; create it with ENCODING 'UTF8'")


def _check_unchanged(migrations: list[Migration], number: int, name: str, checksum: str, folder: Path) -> None:
    if number > len(migrations):
        raise Misconfigured(
            f"the database has migration {number:04d}_{name}, which {folder} lacks: this code is older than the database; update it"
        )
    if migrations[number - 1].checksum != checksum:
        raise Misconfigured(
            f"{folder}/{number:04d}_{migrations[number - 1].name}.sql was changed after it was applied; "
            "restore it and put the change into a new migration"
        )
