"""The embedded stack's executor: it imports what tasks need before it forks its workers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from backline.settings import ROOT
from stack.environment import build_environment
from stack.paths import Paths
from stack.postgres import Cluster
from stack.secrets import Secrets

STARTED = """
import sys
from airflow.executors.executor_loader import ExecutorLoader
from airflow.executors.local_executor import LocalExecutor

def show(executor):
    from airflow.sdk.api.client import Client
    print("forked", "airflow.sdk.execution_time.supervisor" in sys.modules, Client._get_ssl_context_cached.cache_info().currsize)

LocalExecutor.start = show
ExecutorLoader.get_default_executor().start()
"""


def test_workers_are_forked_from_a_process_that_has_imported_what_they_need(tmp_path: Path) -> None:
    paths, secrets = Paths(ROOT, tmp_path, 9100), Secrets()
    environment = build_environment(paths, secrets, Cluster(paths, secrets))
    done = subprocess.run(
        [sys.executable, "-P", "-c", STARTED],
        capture_output=True, text=True, check=True, env={"PATH": "/usr/bin:/bin", **environment},
    )  # fmt: skip
    assert done.stdout.splitlines()[-1] == "forked True 1"
