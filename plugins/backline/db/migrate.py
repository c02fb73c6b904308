"""Schema migrations: numbered files, forward only, recorded with their checksums in the schema that they build."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString, cast

import psycopg
from psycopg.sql import SQL, Identifier

from backline.db.connect import translate_error, translate_errors
from backline.db.statements import SQL_FOLDER
from backline.errors import DatabaseFailure, Misconfigured, RetryableError

SCHEMA = "backline"
MIGRATIONS_FOLDER = SQL_FOLDER / "migrations"
Connection = psycopg.Connection[Any]
_FILE_NAME = re.compile(r"^(\d{4})_(\w+)\.sql$")

# A schema's name cannot be a parameter, so it is inserted as a quoted identifier.
_SCHEMA_EXISTS = "SELECT to_regnamespace(quote_ident(%s)) IS NOT NULL"
_CREATE_SCHEMA = SQL("CREATE SCHEMA {schema}")
_CREATE_MIGRATION_TABLE = SQL("""
CREATE TABLE IF NOT EXISTS {schema}.migration (
    number     integer PRIMARY KEY,
    name       text NOT NULL,
    checksum   text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
)""")
# A transaction-level lock: safe behind a transaction pooler, and gone with the transaction.
_LOCK = "SELECT pg_advisory_xact_lock(hashtext(%s || '.migration'))"
_SET_LOCK_TIMEOUT = "SELECT set_config('lock_timeout', %s, true)"
LOCK_TIMEOUT_SECONDS = 60
_MIGRATION_TABLE_EXISTS = "SELECT to_regclass(quote_ident(%s) || '.migration') IS NOT NULL"
_LIST_APPLIED = SQL("SELECT number, name, checksum FROM {schema}.migration ORDER BY number")
_INSERT_MIGRATION = SQL("INSERT INTO {schema}.migration (number, name, checksum) VALUES (%s, %s, %s)")
# By default everybody may call a new function; an app's role is granted those that it calls (docs/adopting.md).
_REVOKE_FROM_PUBLIC = SQL("REVOKE EXECUTE ON ALL ROUTINES IN SCHEMA {schema} FROM PUBLIC")
_SERVER_INFO = "SELECT current_setting('server_version_num')::integer, current_setting('server_encoding') = 'UTF8'"
MIN_SERVER_VERSION = 170000


@dataclass(frozen=True, slots=True)
class Migration:
    """One migration file."""

    number: int
    name: str
    sql: str

    @property
    def label(self) -> str:
        """Number and name, as in the file's name."""
        return f"{self.number:04d}_{self.name}"

    @property
    def checksum(self) -> str:
        """SHA-256 of the file's text."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


def read_migrations(folder: Path = MIGRATIONS_FOLDER) -> list[Migration]:
    """All migrations in order; Misconfigured on a bad name, a gap or a number used twice."""
    found = []
    for path in sorted(folder.glob("*.sql")):
        match = _FILE_NAME.match(path.name)
        if match is None:
            raise Misconfigured(f"{path}: name it NNNN_what_it_does.sql")
        found.append(Migration(int(match[1]), match[2], path.read_text(encoding="utf-8")))
    numbers = [migration.number for migration in found]
    if numbers != list(range(1, len(found) + 1)):
        raise Misconfigured(f"{folder}: numbers must run 0001, 0002, ... without gaps or repeats; found {numbers}")
    return found


def migrate(dsn: str, folder: Path = MIGRATIONS_FOLDER) -> list[str]:
    """Bring the database's schema up to date and register the message types; returns the names of the migrations applied.

    One transaction, so a failure changes nothing. Misconfigured as in `apply_files`.
    """
    from backline.messages.sync import sync_types

    with translate_errors(), psycopg.connect(dsn) as connection:
        fresh = apply_files(connection, SCHEMA, folder)
        sync_types(connection)
    return fresh


def _lock(connection: Connection, schema: str) -> None:
    """Wait for another migration of the schema; DatabaseFailure if it takes long."""
    connection.execute(_SET_LOCK_TIMEOUT, [f"{LOCK_TIMEOUT_SECONDS}s"])
    try:
        connection.execute(_LOCK, [schema])
    except psycopg.errors.LockNotAvailable as exc:
        raise DatabaseFailure(
            f"another session has held the migration lock of {schema} for {LOCK_TIMEOUT_SECONDS} s: wait until it ends, or find its "
            "pid in pg_locks, with the locktype advisory"
        ) from exc
    connection.execute(_SET_LOCK_TIMEOUT, ["0"])


def apply_files(connection: Connection, schema: str, folder: Path) -> list[str]:
    """Apply a folder's missing migrations to a schema, under a lock, in the caller's transaction; returns their names.

    The schema is created if necessary. Misconfigured if an applied file was changed or deleted, or if the server does not
    meet Backline's requirements.
    """
    migrations = read_migrations(folder)
    names = {"schema": Identifier(schema)}
    _check_server(connection)
    _lock(connection, schema)
    if not _query_bool(connection, _SCHEMA_EXISTS, schema):  # a role without CREATE can use an existing schema
        connection.execute(_CREATE_SCHEMA.format(**names))
    connection.execute(_CREATE_MIGRATION_TABLE.format(**names))
    applied = {number: (name, checksum) for number, name, checksum in connection.execute(_LIST_APPLIED.format(**names))}
    for number, (name, checksum) in applied.items():
        _check_unchanged(migrations, number, name, checksum, folder)
    fresh = [migration for migration in migrations if migration.number not in applied]
    for migration in fresh:
        try:
            connection.execute(migration.sql, prepare=False)
        except psycopg.Error as exc:
            error = translate_error(exc)
            if isinstance(error, RetryableError):
                raise error from exc
            raise Misconfigured(f"{folder}/{migration.label}.sql: {error}; nothing of it was applied") from exc
        connection.execute(_INSERT_MIGRATION.format(**names), (migration.number, migration.name, migration.checksum))
    if fresh:
        connection.execute(_REVOKE_FROM_PUBLIC.format(**names))
    return [migration.label for migration in fresh]


def pending(dsn: str, folder: Path = MIGRATIONS_FOLDER) -> list[str]:
    """Names of the migrations that the database lacks."""
    numbers = set()
    with translate_errors(), psycopg.connect(dsn) as connection:
        if _query_bool(connection, _MIGRATION_TABLE_EXISTS, SCHEMA):
            numbers = {row[0] for row in connection.execute(_LIST_APPLIED.format(schema=Identifier(SCHEMA)))}
    return [migration.label for migration in read_migrations(folder) if migration.number not in numbers]


def _query_bool(connection: Connection, query: LiteralString, schema: str) -> bool:
    row = connection.execute(query, [schema]).fetchone()
    return row is not None and row[0] is True


def _check_server(connection: Connection) -> None:
    version, is_utf8 = cast("tuple[int, bool]", connection.execute(_SERVER_INFO).fetchone())
    if version < MIN_SERVER_VERSION:
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
            f"{folder}/{migrations[number - 1].label}.sql was changed after it was applied; "
            "restore it and put the change into a new migration"
        )
