"""Health checks: one per component, made from outside as a user would."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from backline.airflow_api import AirflowClient
from backline.db.migrate import pending
from backline.errors import BacklineError
from stack.environment import LOOPBACK
from stack.paths import Paths
from stack.postgres import Cluster
from stack.secrets import Secrets
from stack.supervisor import ServiceState

AIRFLOW_HEALTH_KEYS = {"scheduler": "scheduler", "dag-processor": "dag_processor", "triggerer": "triggerer"}
"""Service → its key in Airflow's health response."""


@dataclass(frozen=True, slots=True)
class Check:
    """The health of one component."""

    name: str
    ok: bool
    detail: str


class LocalAirflowClient(AirflowClient):
    """The API of this copy of the stack."""

    def __init__(self, paths: Paths, secrets: Secrets) -> None:
        super().__init__(f"http://{LOOPBACK}:{paths.port}", "admin", secrets.admin_password, timeout=10, retries=0)


def run_checks(paths: Paths, secrets: Secrets, cluster: Cluster, states: dict[str, ServiceState]) -> list[Check]:
    """Check every component, in the order in which they start."""
    api = LocalAirflowClient(paths, secrets)
    return [
        _check_database(cluster),
        _check_migrations(cluster),
        _check_mail(paths),
        *_check_airflow(api, states),
        _check_service("maintenance", states),
        _check_dag_imports(api),
    ]


def is_port_open(port: int) -> bool:
    """Whether a process accepts connections on that port of the loopback interface."""
    try:
        socket.create_connection((LOOPBACK, port), timeout=2).close()
    except OSError:
        return False
    return True


def is_airflow_ready(service: ServiceState, health: dict[str, dict[str, Any]], now: float) -> bool:
    """Whether the service's heartbeat is from its current process: the last one's stays fresh for a while."""
    key = AIRFLOW_HEALTH_KEYS[service.name]
    heartbeat = health.get(key, {}).get(f"latest_{key}_heartbeat")
    return bool(heartbeat) and datetime.fromisoformat(str(heartbeat)).timestamp() >= now - service.uptime


def unparsed_dag_files(api: LocalAirflowClient, dags_folder: Path, parsed_since: float) -> set[str]:
    """DAG files that have neither been parsed nor failed to import since then, relative to their folder."""
    files = {
        str(path.relative_to(dags_folder))
        for path in dags_folder.rglob("*.py")
        # Airflow's rule for what may be a DAG file ([core] dag_discovery_safe_mode).
        if all(word in path.read_bytes().lower() for word in (b"dag", b"airflow"))
    }
    parsed = {
        dag["relative_fileloc"]
        for dag in api.dags()
        if dag["last_parsed_time"] and datetime.fromisoformat(dag["last_parsed_time"]).timestamp() >= parsed_since
    }
    return files - parsed - {error["filename"] for error in api.import_errors()}


def _check_database(cluster: Cluster) -> Check:
    try:
        cluster.wait_ready(timeout=0)
    except BacklineError as exc:
        return Check("database", False, str(exc))
    return Check("database", True, f"PostgreSQL on {cluster.socket_folder}")


def _check_migrations(cluster: Cluster) -> Check:
    try:
        missing = pending(cluster.dsn("backline"))
    except BacklineError as exc:
        return Check("migrations", False, str(exc))
    if missing:
        return Check("migrations", False, f"not applied: {', '.join(missing)}; run ./backline setup")
    return Check("migrations", True, "all applied")


def _check_mail(paths: Paths) -> Check:
    closed = [port for port in (paths.smtp_port, paths.mail_web_port) if not is_port_open(port)]
    if closed:
        return Check("mail", False, f"port {' and '.join(map(str, closed))} is closed; see ./backline logs mail")
    return Check("mail", True, f"SMTP on {paths.smtp_port}, page on {paths.mail_web_port}")


def _check_service(name: str, states: dict[str, ServiceState]) -> Check:
    state = states.get(name)
    if state is None or state.state != "RUNNING":
        return Check(name, False, f"{state.state.lower() if state else 'not running'}; see ./backline logs {name}")
    return Check(name, True, f"running, process {state.pid}")


def _check_airflow(api: LocalAirflowClient, states: dict[str, ServiceState]) -> list[Check]:
    server = _check_service("api-server", states)
    try:
        health = api.health() if server.ok else {}
    except BacklineError as exc:
        server = Check("api-server", False, str(exc))
        health = {}
    if server.ok and health.get("metadatabase", {}).get("status") != "healthy":
        server = Check("api-server", False, "cannot reach Airflow's database; see ./backline logs api-server")
    found = [server]
    for name, key in AIRFLOW_HEALTH_KEYS.items():
        check = _check_service(name, states)
        status = health.get(key, {}).get("status")
        if check.ok and status != "healthy":
            check = Check(name, False, f"{status or 'unknown'}: no fresh heartbeat; see ./backline logs {name}")
        found.append(check)
    return found


def _check_dag_imports(api: LocalAirflowClient) -> Check:
    try:
        errors = api.import_errors()
    except BacklineError as exc:
        return Check("DAG files", False, str(exc))
    if errors:
        names = ", ".join(sorted(str(error["filename"]) for error in errors))
        return Check("DAG files", False, f"cannot be imported: {names}; see ./backline airflow dags list-import-errors")
    return Check("DAG files", True, "all imported")
