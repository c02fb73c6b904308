"""The containers' processes on CeleryExecutor: delivery by a queue's worker, roles, health checks, stopping a worker."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator, Mapping

import psycopg
import pytest

from stack.paths import Paths
from testkit.containers import files
from testkit.containers.local_host import LocalHost, running_services
from testkit.run_inspector import RunInspector
from testkit.sandbox_clients import MailCatcherClient
from testkit.tools import Tools

pytestmark = [pytest.mark.extended, pytest.mark.stack, pytest.mark.timeout(540)]


@pytest.fixture(scope="module")
def host() -> Iterator[LocalHost]:
    redis = Tools(Paths.from_environment().home / "bench", print).redis()
    with running_services(redis, "worker-critical") as made:
        yield made


@pytest.fixture
def airflow(host: LocalHost) -> Iterator[RunInspector]:
    url = f"http://127.0.0.1:{host.ports['api']}"
    with RunInspector(url, "admin", host.values["BACKLINE_PASSWORD"]) as client:
        yield client


def test_a_message_is_sent_by_the_worker_of_its_queue(host: LocalHost, airflow: RunInspector) -> None:
    payload = json.dumps({"context": {"title": "Disk almost full", "summary": "db-1 has 4 % left."}})
    with psycopg.connect(host.environment("init")["BACKLINE_DATABASE_URL"], autocommit=True) as connection:
        connection.execute("SELECT backline.enqueue('urgent_email', 'ann@celery.example.com', %s::jsonb)", [payload])
        with MailCatcherClient(f"http://127.0.0.1:{host.ports['page']}") as mail:
            host.wait_until(lambda: mail.count("*@celery.example.com") == 1, "the mail", 150)
        dispatcher = connection.execute(
            "SELECT dag_run FROM backline.dispatcher WHERE lane = 'email.urgent'"
        ).fetchone()
    assert dispatcher is not None
    run_id = dispatcher[0].partition("/")[2]
    task: Mapping[str, object] = airflow.task("dispatch_email_urgent", run_id, "dispatch")
    assert (task["state"], task["queue"], task["pool"]) == ("running", "critical", "email_urgent")
    assert task["executor"] in (None, "CeleryExecutor")
    assert "execute_workload" in host.log_tail("worker-critical")


def test_each_role_reaches_its_own_database_only(host: LocalHost) -> None:
    ours = host.environment("init")["BACKLINE_DATABASE_URL"]
    with psycopg.connect(ours) as connection:
        assert connection.execute("SELECT count(*) > 0 FROM pg_stat_statements").fetchone() == (True,)
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        psycopg.connect(ours, dbname="airflow")


def test_each_component_passes_its_own_health_check(host: LocalHost) -> None:
    bin_folder = files.ensure_venv(files.IMAGE_REQUIREMENTS)
    for service in ("api-server", "scheduler", "dag-processor", "triggerer", "worker-critical"):
        kind, *command = host.services[service]["healthcheck"]["test"]
        command = ["/bin/sh", "-c", *command] if kind == "CMD-SHELL" else [str(bin_folder / command[0]), *command[1:]]
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=host.environment(service))
        assert done.returncode == 0, (service, done.stdout, done.stderr)


def test_maintenance_authenticates_and_prunes(host: LocalHost) -> None:
    code = """if True:
        import logging, os
        from datetime import UTC, datetime
        from backline.airflow.maintenance import prune_airflow
        logging.basicConfig(level=logging.INFO)
        prune_airflow(datetime.now(UTC), os.environ)"""
    done = subprocess.run(
        [str(files.ensure_venv(files.IMAGE_REQUIREMENTS) / "python"), "-P", "-c", code],
        check=False, capture_output=True, text=True, env=host.environment("maintenance"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "pruned dag_run" in done.stderr
    assert "pruned log" in done.stderr
    assert "failed" not in done.stderr


def test_init_sets_a_new_password_and_changes_nothing_else(host: LocalHost) -> None:
    environment = {**host.environment("init"), "BACKLINE_PASSWORD": "another-password"}
    assert host.start("init", env=environment).wait(120) == 0, host.log_tail("init")
    assert "pools: unchanged" in host.log_tail("init")
    assert "user admin: password changed" in host.log_tail("init")
    with RunInspector(environment["BACKLINE_URL"], "admin", "another-password") as client:
        assert any(dag["dag_id"] == "dispatch_email" for dag in client.dags())
    host.values["BACKLINE_PASSWORD"] = "another-password"


def test_a_stopping_worker_ends_its_dispatchers(host: LocalHost, airflow: RunInspector) -> None:
    worker = host.processes["worker-critical"]
    [run] = airflow.runs("dispatch_email_urgent", state="running")
    before = time.monotonic()
    worker.terminate()
    assert worker.wait(30) == 0, host.log_tail("worker-critical")
    # Without the signal it would stay warm for 300 s.
    assert time.monotonic() - before < 15
    task = airflow.task("dispatch_email_urgent", run["dag_run_id"], "dispatch")
    assert task["state"] == "success"
    left = airflow.xcom("dispatch_email_urgent", run["dag_run_id"], "dispatch")
    assert left["ended"] == "terminated"
