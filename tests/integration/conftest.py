"""A real PostgreSQL server for tests: the embedded one, or that of BACKLINE_TEST_POSTGRES_DSN."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import uuid
from collections.abc import Iterator

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.rows import DictRow, dict_row
from psycopg.sql import SQL, Identifier

from backline.db.connect import session
from backline.db.migrate import migrate
from backline.encryption import Encryptor
from backline.settings import ROOT
from stack import reference_app
from stack.paths import Paths
from stack.postgres import SYSTEM_FOLDER, Cluster
from stack.secrets import Secrets
from testkit.suite import marker, temporary_stack_folder
from tests.integration.shop import Shop

TEST_FERNET_KEY = "bm90LWEtc2VjcmV0LWJ1dC1vZi0zMi1ieXRlcy1sZW4="


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """The superuser's DSN of a server for this session."""
    if given := os.environ.get("BACKLINE_TEST_POSTGRES_DSN"):
        yield given
        return
    home = temporary_stack_folder()
    secrets = Secrets()
    paths = Paths(ROOT, home, 8080)
    paths.create_folders()
    cluster = Cluster(paths, secrets)
    cluster.initialize()
    quick = ["-c", "fsync=off", "-c", "max_connections=100", "-c", "summarize_wal=off"]
    with (home / "postgres.log").open("wb") as log:
        process = subprocess.Popen(
            [*cluster.server_command(), *quick],
            stdout=log,
            stderr=log,
            cwd="/",
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", **marker()},
            user=cluster.user,
            extra_groups=[] if cluster.user else None,
        )
    try:
        cluster.wait_ready()
        yield cluster.dsn("postgres")
    finally:
        process.send_signal(signal.SIGINT)  # a fast shutdown, which disconnects clients of failed tests
        process.wait(20)
        cluster.remove_socket_folder()
        shutil.rmtree(SYSTEM_FOLDER / secrets.instance_id, ignore_errors=True)
        shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def template(server: str) -> Iterator[str]:
    """The name of a migrated database with the reference app's empty tables, to copy."""
    name = f"backline_template_{uuid.uuid4().hex[:8]}"
    create(server, name)
    migrate(make_conninfo(server, dbname=name))
    reference_app.apply_schema(make_conninfo(server, dbname=name))
    yield name
    drop(server, name)


@pytest.fixture(scope="session")
def seeded_template(server: str, template: str) -> Iterator[str]:
    """The name of a copy of `template` with the reference app's data at scale 1."""
    name = f"backline_seeded_{uuid.uuid4().hex[:8]}"
    create(server, name, template)
    reference_app.seed(make_conninfo(server, dbname=name), 1, encryptor=Encryptor([TEST_FERNET_KEY]))
    yield name
    drop(server, name)


@pytest.fixture
def empty_database(server: str) -> Iterator[str]:
    """The DSN of a new, empty database."""
    name = f"backline_test_{uuid.uuid4().hex[:12]}"
    create(server, name)
    yield make_conninfo(server, dbname=name)
    drop(server, name)


@pytest.fixture
def database(server: str, template: str) -> Iterator[str]:
    """The DSN of a new, migrated database."""
    name = f"backline_test_{uuid.uuid4().hex[:12]}"
    create(server, name, template)
    yield make_conninfo(server, dbname=name)
    drop(server, name)


@pytest.fixture
def seeded_database(server: str, seeded_template: str) -> Iterator[str]:
    """The DSN of a new, migrated database with the reference app's data at scale 1; TEST_FERNET_KEY decrypts its tokens."""
    name = f"backline_test_{uuid.uuid4().hex[:12]}"
    create(server, name, seeded_template)
    yield make_conninfo(server, dbname=name)
    drop(server, name)


@pytest.fixture
def app(server: str, seeded_template: str) -> Iterator[psycopg.Connection[DictRow]]:
    """A connection to the reference app's data at scale 1, in a transaction that is rolled back."""
    with psycopg.connect(make_conninfo(server, dbname=seeded_template), row_factory=dict_row) as connection:
        yield connection
        connection.rollback()


@pytest.fixture
def shop(database: str) -> Iterator[Shop]:
    """A shop in a database of the test's own."""
    with session(database, name="test") as connection:
        yield Shop(connection)


def create(server: str, name: str, template: str = "template1") -> None:
    with psycopg.connect(server, autocommit=True) as connection:
        # Copied as files: through the log, which is the default, it takes seven times as long.
        query = SQL("CREATE DATABASE {} TEMPLATE {} STRATEGY file_copy")
        connection.execute(query.format(Identifier(name), Identifier(template)))


def drop(server: str, name: str) -> None:
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(Identifier(name)))
