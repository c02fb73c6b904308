"""Searches everything that a running stack stores and shows for secrets: sources are found, not listed."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import LiteralString, Self
from urllib.parse import quote

import psutil
import psycopg
from psycopg.sql import SQL, Identifier

from stack.postgres import Cluster
from stack.processes import find_processes

NEEDLE_LENGTH = 64
"""Characters of a secret that are searched: a line of a PEM key."""
DATABASES: LiteralString = "SELECT datname FROM pg_database WHERE datallowconn"
RELATIONS: LiteralString = """
SELECT n.nspname, c.relname FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname <> 'information_schema'
    AND (c.relkind IN ('r', 'm') OR c.relkind = 'v' AND (n.nspname <> 'pg_catalog' OR c.relname = 'pg_stat_activity'))
"""
"""Tables, partitions and views of all schemas; of the system's views only the one with statements (its tables are among them)."""
ROWS = SQL("SELECT t::text FROM {} AS t WHERE t::text LIKE ANY(%s)")

Found = set[tuple[str, str]]
"""Secret and place, both by name."""


def _shapes(secret: str) -> tuple[str, ...]:
    """A secret as it is, in a URL, and as PostgreSQL and logs show bytes."""
    needle = secret[:NEEDLE_LENGTH]
    return needle, quote(needle, safe=""), needle.encode().hex()


def _names_in(text: str, secrets: Mapping[str, str]) -> set[str]:
    return {name for name, secret in secrets.items() if any(shape in text for shape in _shapes(secret))}


def find_in_databases(cluster: Cluster, secrets: Mapping[str, str]) -> Found:
    """All databases, as superuser."""
    found: Found = set()
    with psycopg.connect(cluster.dsn("postgres")) as connection:
        databases = [name for (name,) in connection.execute(DATABASES)]
    patterns = [f"%{shape.replace('%', '_')}%" for secret in secrets.values() for shape in _shapes(secret)]
    for database in databases:
        with psycopg.connect(cluster.dsn("postgres", database)) as connection:
            for schema, name in connection.execute(RELATIONS).fetchall():
                with contextlib.suppress(psycopg.errors.UndefinedTable), connection.transaction():
                    for (row,) in connection.execute(ROWS.format(Identifier(schema, name)), [patterns]):
                        found |= {(secret, f"{database}: {schema}.{name}") for secret in _names_in(row, secrets)}
    return found


def find_in_files(folders: Iterable[Path], secrets: Mapping[str, str]) -> Found:
    """All files of the folders."""
    found: Found = set()
    for path in _files(folders):
        with contextlib.suppress(FileNotFoundError):
            content = path.read_bytes()
            for name, secret in secrets.items():
                if any(shape.encode() in content for shape in _shapes(secret)):
                    found.add((name, str(path)))
    return found


def _files(folders: Iterable[Path]) -> Iterator[Path]:
    for folder in folders:
        yield from (path for path in folder.rglob("*") if path.is_file())


def find_in_environments(stack_id: str, secrets: Mapping[str, str]) -> Found:
    """The environment variables of all processes of the stack; those of tasks are hidden even from their own user."""
    found: Found = set()
    for process in find_processes(stack_id):
        with contextlib.suppress(psutil.Error, OSError):
            text = "\n".join(process.environ().values())
            found |= {(name, process.environ().get("SUPERVISOR_PROCESS_NAME", "")) for name in _names_in(text, secrets)}
    return found


class CommandLines:
    """Looks at the command lines of all processes of this machine, as `ps` does, while its body runs."""

    def __init__(self, secrets: Mapping[str, str]) -> None:
        self.found: Found = set()
        self.seen: set[str] = set()
        self._secrets = secrets
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._ended.wait(0.2):
            for process in psutil.process_iter(["cmdline"]):
                line = " ".join(process.info["cmdline"] or ())
                if line not in self.seen:
                    self.seen.add(line)
                    self.found |= {(name, line[:200]) for name in _names_in(line, self._secrets)}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
