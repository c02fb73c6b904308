"""docker-compose.airflow.yml without a container engine: its own commands and variables, as processes of this machine.

What Compose resolves is run as it stands; only the containers' names, ports and folders become this machine's.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from backline.airflow.rest import AirflowRest
from backline.demo.mail import MailCatcher
from backline.errors import BacklineError
from backline.settings import ROOT
from backline.stack.paths import Paths
from backline.stack.postgres import SYSTEM_FOLDER, Cluster
from backline.stack.secrets import Secrets
from bench.tools import Tools
from tests.integration.containers import files

pytestmark = [pytest.mark.celery, pytest.mark.stack, pytest.mark.timeout(540)]

STARTED = ("mail", "api-server", "scheduler", "dag-processor", "triggerer", "worker-critical")


class Host:
    """This machine in the place of the containers."""

    def __init__(self, folder: Path) -> None:
        names = ("postgres", "redis", "api", "smtp", "page", "worker logs", "trigger logs")
        self.folder = folder
        self.ports = dict(zip(names, _free_ports(len(names)), strict=True))
        local = {
            "BACKLINE_DB_HOST": "127.0.0.1", "BACKLINE_DB_PORT": self.ports["postgres"],
            "SMTP_HOST": "127.0.0.1", "SMTP_PORT": self.ports["smtp"],
        }  # fmt: skip
        self.values = files.filled() | {key: str(value) for key, value in local.items()}
        self.services = files.services(self.values, folder)
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.image = {key: self._here(value) for key, value in files.image_environment().items()} | {
            f"AIRFLOW__LOGGING__{kind}_LOG_SERVER_PORT": str(self.ports[f"{kind.lower()} logs"])
            for kind in ("WORKER", "TRIGGER")
        }

    def _here(self, text: str) -> str:
        ports = self.ports
        for there, here in (
            ("@postgres:5432", f"@127.0.0.1:{ports['postgres']}"),
            ("@redis:6379", f"@127.0.0.1:{ports['redis']}"),
            ("http://api-server:8080", f"http://127.0.0.1:{ports['api']}"),
            ("/opt/venv/bin", str(files.venv_of(files.IMAGE_LIBRARIES))),
            ("/opt/backline", str(ROOT)),
            ("/var/lib/backline", str(self.folder / "state")),
        ):
            text = text.replace(there, here)
        return text

    def environment(self, service: str) -> dict[str, str]:
        """The image's variables and the service's."""
        own = {key: self._here(value) for key, value in self.services[service].get("environment", {}).items() if value}
        return {**self.image, **own, "HOME": str(self.folder), "NO_PROXY": "127.0.0.1,localhost"}

    def start(self, service: str, command: list[str] | None = None, **more: Any) -> subprocess.Popen[bytes]:
        """Run the service's command; what it says goes to a file of its name."""
        numbers = {"8080": self.ports["api"], "1025": self.ports["smtp"], "8082": self.ports["page"]}
        argv = command or [str(numbers.get(word, word)) for word in map(self._here, self.services[service]["command"])]
        if command is None:
            argv[0] = shutil.which(argv[0], path=self.image["PATH"]) or argv[0]
        more.setdefault("env", self.environment(service))
        with (self.folder / f"{service}.log").open("ab") as log:
            process = subprocess.Popen(
                argv, cwd=more.pop("cwd", ROOT), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, **more,
            )  # fmt: skip
        self.processes[service] = process
        return process

    def said(self, service: str) -> str:
        """The last that a service said."""
        return (self.folder / f"{service}.log").read_text(encoding="utf-8", errors="replace")[-4000:]

    def end(self) -> None:
        """Stop what runs, the databases last; a service and all that it started."""
        for service, process in reversed(self.processes.items()):
            if process.poll() is None:
                process.send_signal(signal.SIGINT if service == "postgres" else signal.SIGTERM)
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    folder = Path(tempfile.mkdtemp(prefix="bl-celery-", dir="/tmp"))
    folder.chmod(0o711)
    secrets: Secrets | None = None
    made = Host(folder)
    try:
        secrets = _start_postgres(made)
        _start_redis(made)
        (folder / "state" / "airflow" / "logs").mkdir(parents=True)
        assert made.start("init").wait(240) == 0, made.said("init")
        for service in STARTED:
            made.start(service)
        yield made
    finally:
        made.end()
        if secrets:
            shutil.rmtree(SYSTEM_FOLDER / secrets.instance_id, ignore_errors=True)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def airflow(host: Host) -> Iterator[AirflowRest]:
    url = f"http://127.0.0.1:{host.ports['api']}"
    with AirflowRest(url, "admin", host.values["BACKLINE_PASSWORD"]) as client:
        yield client


def test_a_message_goes_out_through_the_worker_of_its_queue(host: Host, airflow: AirflowRest) -> None:
    payload = json.dumps({"context": {"title": "Disk almost full", "summary": "db-1 has 4 % left."}})
    with psycopg.connect(host.environment("init")["BACKLINE_DATABASE_URL"], autocommit=True) as connection:
        connection.execute("SELECT backline.enqueue('urgent_email', 'ann@celery.example.com', %s::jsonb)", [payload])
        with MailCatcher(f"http://127.0.0.1:{host.ports['page']}") as mail:
            _until(lambda: mail.count("*@celery.example.com") == 1, 150, host)
        dispatcher = connection.execute(
            "SELECT dag_run FROM backline.dispatcher WHERE lane = 'email.urgent'"
        ).fetchone()
    assert dispatcher is not None
    run_id = dispatcher[0].partition("/")[2]
    task = airflow.task("dispatch_email_urgent", run_id, "dispatch")
    assert (task["state"], task["queue"], task["pool"]) == ("running", "critical", "email_urgent")
    assert task["executor"] in (None, "CeleryExecutor")
    assert "execute_workload" in host.said("worker-critical")


def test_each_role_reaches_its_own_database_only(host: Host) -> None:
    ours = host.environment("init")["BACKLINE_DATABASE_URL"]
    with psycopg.connect(ours) as connection:
        assert connection.execute("SELECT count(*) > 0 FROM pg_stat_statements").fetchone() == (True,)
    with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
        psycopg.connect(ours, dbname="airflow")


def test_each_component_passes_its_own_health_check(host: Host) -> None:
    bin_folder = files.venv_of(files.IMAGE_LIBRARIES)
    for service in STARTED[1:]:
        kind, *command = host.services[service]["healthcheck"]["test"]
        command = ["/bin/sh", "-c", *command] if kind == "CMD-SHELL" else [str(bin_folder / command[0]), *command[1:]]
        done = subprocess.run(command, check=False, capture_output=True, text=True, env=host.environment(service))
        assert done.returncode == 0, (service, done.stdout, done.stderr)


def test_upkeep_logs_in_and_prunes(host: Host) -> None:
    code = """if True:
        import logging, os
        from datetime import UTC, datetime
        from backline.stack.maintenance import prune
        logging.basicConfig(level=logging.INFO)
        prune(datetime.now(UTC), os.environ)"""
    done = subprocess.run(
        [str(files.venv_of(files.IMAGE_LIBRARIES) / "python"), "-P", "-c", code],
        check=False, capture_output=True, text=True, env=host.environment("maintenance"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "pruned dag_run" in done.stderr
    assert "pruned log" in done.stderr
    assert "failed" not in done.stderr


def test_init_gives_the_user_a_new_password_and_changes_nothing_else(host: Host) -> None:
    environment = {**host.environment("init"), "BACKLINE_PASSWORD": "another-password"}
    assert host.start("init", env=environment).wait(120) == 0, host.said("init")
    assert "pools: unchanged" in host.said("init")
    assert "user admin: has the new password" in host.said("init")
    with AirflowRest(environment["BACKLINE_URL"], "admin", "another-password") as client:
        assert any(dag["dag_id"] == "dispatch_email" for dag in client.dags())
    host.values["BACKLINE_PASSWORD"] = "another-password"


def test_a_worker_that_is_told_to_stop_ends_its_dispatchers(host: Host, airflow: AirflowRest) -> None:
    worker = host.processes["worker-critical"]
    [run] = airflow.runs("dispatch_email_urgent", state="running")
    before = time.monotonic()
    worker.terminate()
    assert worker.wait(30) == 0, host.said("worker-critical")
    # It would have stayed warm for 300 s.
    assert time.monotonic() - before < 15
    task = airflow.task("dispatch_email_urgent", run["dag_run_id"], "dispatch")
    assert task["state"] == "success"
    left = airflow.xcom("dispatch_email_urgent", run["dag_run_id"], "dispatch")
    assert left["ended"] == "terminated"


def _start_postgres(host: Host) -> Secrets:
    secrets = Secrets(superuser_password=host.values["POSTGRES_PASSWORD"])
    paths = Paths(ROOT, host.folder / "postgres", 8080)
    paths.prepare()
    cluster = Cluster(paths, secrets)
    cluster.prepare()
    settings = host.services["postgres"]["command"][1:]
    listen = ["-c", "listen_addresses=127.0.0.1", "-c", f"port={host.ports['postgres']}"]
    host.start(
        "postgres", [*cluster.command(), *settings, *listen], cwd="/", env={"PATH": "/usr/bin:/bin", "LC_ALL": "C"},
        user=cluster.user, extra_groups=[] if cluster.user else None,
    )  # fmt: skip
    superuser = f"host=127.0.0.1 port={host.ports['postgres']} user=postgres password={secrets.superuser_password}"
    _until(lambda: bool(psycopg.connect(superuser).close() is None), 30, host)
    [script] = [each for each in host.services["postgres"]["volumes"] if each["type"] == "bind"]
    subprocess.run(
        [str(cluster.binaries() / "psql"), "--no-psqlrc", "-v", "ON_ERROR_STOP=1", "-d", superuser, "-f", script["source"]],
        check=True, env=host.environment("postgres"), capture_output=True,
    )  # fmt: skip
    return secrets


def _start_redis(host: Host) -> None:
    program = Tools(Paths.from_environment().home / "bench", print).redis()
    shell, option, script = host.services["redis"]["command"]
    data = host.folder / "redis"
    data.mkdir()
    script = script.replace("dir /data", f"dir {data}\nport {host.ports['redis']}\nbind 127.0.0.1")
    script = script.replace("redis-server", str(program.path), 1)
    host.start(
        "redis", [shell, option, script], env={**host.environment("redis"), **program.environment, "PATH": os.defpath}
    )


def _until(condition: Callable[[], bool], seconds: float, host: Host) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except (BacklineError, psycopg.OperationalError):
            pass
        ended = [name for name, process in host.processes.items() if process.poll() not in (None, 0)]
        assert not ended, host.said(ended[0])
        assert time.monotonic() < deadline, {name: host.said(name)[-1500:] for name in host.processes}
        time.sleep(0.2)


def _free_ports(count: int) -> list[int]:
    held = [socket.socket() for _ in range(count)]
    try:
        for each in held:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in held]
    finally:
        for each in held:
            each.close()
