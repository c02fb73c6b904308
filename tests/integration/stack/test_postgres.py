"""The embedded PostgreSQL, run for real: initialized, started, protected, and stopped without leftovers."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from backline.errors import Misconfigured
from backline.settings import ROOT
from stack.paths import Paths
from stack.postgres import MANUAL_RUN_DATABASE, Cluster
from stack.secrets import Secrets
from testkit.suite import marker


@contextmanager
def _running_server(cluster: Cluster) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        cluster.server_command(),
        user=cluster.user,
        env={"PATH": "/usr/bin:/bin", "LC_ALL": "C", **marker()},
        cwd="/",
        stderr=subprocess.DEVNULL,
    )
    try:
        cluster.wait_ready(30)
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
        cluster.remove_socket_folder()


@pytest.fixture
def uninitialized_cluster(tmp_path: Path) -> Iterator[Cluster]:
    paths = Paths(ROOT, tmp_path / "home", 9100)
    paths.create_folders()
    made = Cluster(paths, Secrets())
    yield made
    made.remove_socket_folder()
    if not made.data_folder().is_relative_to(tmp_path):  # under root, other users cannot enter pytest's folder
        shutil.rmtree(made.data_folder().parent)


@pytest.fixture
def cluster(uninitialized_cluster: Cluster) -> Cluster:
    uninitialized_cluster.initialize()
    return uninitialized_cluster


def test_databases_are_created_once_and_need_passwords(cluster: Cluster) -> None:
    with _running_server(cluster):
        cluster.ensure_databases()
        cluster.ensure_databases()
        for role in ("backline", "airflow"):
            with psycopg.connect(cluster.dsn(role)) as connection:
                assert connection.execute("SELECT current_user::text, inet_server_addr()").fetchone() == (role, None)
                assert connection.execute("SELECT count(*) > 0 FROM pg_stat_statements").fetchone() == (True,)
        with psycopg.connect(cluster.dsn("postgres")) as connection:
            shown = [connection.execute(f"SHOW {name}").fetchone() for name in ("summarize_wal", "listen_addresses")]
        assert shown == [("on",), ("",)]
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(cluster.dsn("backline").replace(cluster.password("backline"), "wrong"))
        assert (cluster.socket_folder.stat().st_mode & 0o777) == 0o700


def _files_with(folder: Path, *texts: str) -> list[str]:
    """Files of the data folder that contain one of the texts."""
    return [
        str(path)
        for path in folder.rglob("*")
        if path.is_file() and any(t.encode() in path.read_bytes() for t in texts)
    ]


def test_no_file_of_the_server_has_a_password_and_no_role_sees_others_statements(cluster: Cluster) -> None:
    passwords = [cluster.password(role) for role in ("backline", "airflow", "postgres")]
    with _running_server(cluster):
        cluster.ensure_databases()
        with psycopg.connect(cluster.dsn("backline")) as connection:
            granted = "SELECT count(*) FROM pg_auth_members WHERE member = 'backline'::regrole"
            assert connection.execute(granted).fetchone() == (0,)
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            psycopg.connect(cluster.dsn("backline", "airflow"))
    assert _files_with(cluster.data_folder(), *passwords) == []


def test_an_upgrade_removes_the_passwords_of_earlier_versions_from_the_statistics(cluster: Cluster) -> None:
    statistics: LiteralString = "SELECT query FROM pg_stat_statements WHERE query ~* 'ROLE .*PASSWORD'"
    with _running_server(cluster):
        cluster.ensure_databases()
        with psycopg.connect(cluster.dsn("postgres", "backline"), autocommit=True) as admin:
            admin.execute("GRANT pg_monitor TO backline")
            admin.execute("ALTER ROLE backline PASSWORD 'as-earlier-versions-did'")
            assert "as-earlier-versions-did" in str(admin.execute(statistics).fetchall())
            cluster.ensure_databases()
            assert "as-earlier-versions-did" not in str(admin.execute(statistics).fetchall())
            admin.execute("SELECT pg_stat_statements_reset()")
            cluster.ensure_databases()
            assert admin.execute("SELECT pg_has_role('backline', 'pg_monitor', 'MEMBER')").fetchone() == (False,)
            assert admin.execute(statistics).fetchall(), "a later set-up keeps the statistics"
    statistics_files = [path for path in cluster.data_folder().rglob("pg*stat*") if path.is_file()]
    assert not any(b"as-earlier-versions-did" in path.read_bytes() for path in statistics_files)


def test_the_containers_roles_are_created_without_a_trace_of_their_passwords(cluster: Cluster) -> None:
    passwords = {"AIRFLOW_DB_PASSWORD": "airflow's-pass-1", "BACKLINE_DB_PASSWORD": "backline's-pass-2"}
    psql = [str(cluster.binary_folder() / "psql"), "--no-psqlrc", "-d", cluster.dsn("postgres")]
    script = str(ROOT / "include" / "postgres" / "databases.sql")
    with _running_server(cluster):
        subprocess.run([*psql, "-f", script], check=True, env={**os.environ, **passwords}, capture_output=True)
        with psycopg.connect(cluster.dsn("backline"), password=passwords["BACKLINE_DB_PASSWORD"]) as connection:
            granted = "SELECT count(*) FROM pg_auth_members WHERE member = 'backline'::regrole"
            assert connection.execute(granted).fetchone() == (0,)
    assert _files_with(cluster.data_folder(), "s-pass-1", "s-pass-2") == []


def test_the_database_for_manual_runs_is_a_copy_unless_the_original_is_in_use(cluster: Cluster) -> None:
    with _running_server(cluster):
        cluster.ensure_databases()
        with psycopg.connect(cluster.dsn("airflow")) as airflow:
            airflow.execute("CREATE TABLE pools AS SELECT 'email_normal' AS name")
        assert cluster.create_manual_run_database()
        assert not cluster.create_manual_run_database()
        with psycopg.connect(cluster.dsn("airflow", MANUAL_RUN_DATABASE)) as copy:
            assert copy.execute("SELECT name FROM pools").fetchone() == ("email_normal",)
        with psycopg.connect(cluster.dsn("postgres"), autocommit=True) as admin:
            admin.execute(SQL("DROP DATABASE {}").format(Identifier(MANUAL_RUN_DATABASE)))
        with psycopg.connect(cluster.dsn("airflow")):
            assert not cluster.create_manual_run_database()
        with psycopg.connect(cluster.dsn("airflow", MANUAL_RUN_DATABASE)) as empty:
            assert empty.execute("SELECT to_regclass('pools')").fetchone() == (None,)


def test_data_survives_a_restart_and_keeps_its_identity(cluster: Cluster) -> None:
    with _running_server(cluster):
        cluster.ensure_databases()
        before = cluster.system_identifier()
        with psycopg.connect(cluster.dsn("backline")) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 42 AS answer")
    cluster.initialize()
    with _running_server(cluster):
        assert cluster.system_identifier() == before
        with psycopg.connect(cluster.dsn("backline")) as connection:
            assert connection.execute("SELECT answer FROM kept").fetchone() == (42,)


def test_an_interrupted_initialization_starts_again(uninitialized_cluster: Cluster) -> None:
    data = uninitialized_cluster.data_folder()
    half = data.with_name("postgres.new")
    half.mkdir(parents=True)
    (half / "half").touch()
    uninitialized_cluster.initialize()
    assert (data / "PG_VERSION").exists()
    assert not half.exists()


def test_data_of_another_release_is_rejected(cluster: Cluster) -> None:
    (cluster.data_folder() / "PG_VERSION").write_text("12\n")
    with pytest.raises(Misconfigured, match="PostgreSQL 12"):
        cluster.initialize()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs the server as another user")
def test_root_gives_the_server_an_unprivileged_user_and_leaves_other_folders_alone(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    paths = Paths(ROOT, closed / "home", 9100)
    paths.create_folders()
    cluster = Cluster(paths, Secrets())
    cluster.initialize()
    data = cluster.data_folder()
    try:
        assert not data.is_relative_to(closed)
        assert data.stat().st_uid != 0
        with _running_server(cluster) as server:
            assert Path(f"/proc/{server.pid}").stat().st_uid == data.stat().st_uid
        assert closed.stat().st_mode & 0o777 == 0o700
        assert closed.stat().st_uid == 0
    finally:
        shutil.rmtree(data.parent)
        cluster.remove_socket_folder()
