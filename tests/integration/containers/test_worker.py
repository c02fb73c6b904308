"""A stopping Celery worker ends its dispatchers' processes and no other task's."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from backline.settings import ROOT
from testkit.containers import files

# In the image's libraries, which have Celery: pool processes with a task each, as Celery's list of requests knows them.
_SCRIPT = """
import json, subprocess, sys
import psutil
from celery.worker import state
from backline.airflow.worker import stop_dispatchers

POOL_PROCESS = "import subprocess; task = subprocess.Popen(['sleep', '60']); print(task.pid, flush=True); task.wait()"

class Request:
    def __init__(self, dag_id, started=True):
        self.args = [json.dumps({"type": "ExecuteTask", "ti": {"dag_id": dag_id, "task_id": "any"}})]
        self.worker_pid = self.task = None
        if started:
            self.pool_process = subprocess.Popen([sys.executable, "-c", POOL_PROCESS], stdout=subprocess.PIPE)
            self.worker_pid = self.pool_process.pid
            self.task = psutil.Process(int(self.pool_process.stdout.readline()))

    def ended(self, seconds):
        try:
            return self.pool_process.wait(seconds) is not None
        except subprocess.TimeoutExpired:
            return False

dispatcher, job, waiting = Request("dispatch_email"), Request("send_email"), Request("dispatch_email_bulk", started=False)
for request in (dispatcher, job, waiting):
    state.active_requests.add(request)
found = {}
stop_dispatchers(how="Cold")
found["after a cold shutdown"] = [dispatcher.ended(0.5), job.ended(0)]
stop_dispatchers(how="Warm")
found["after a warm shutdown"] = [dispatcher.ended(10), job.ended(0.5)]
job.task.kill()
job.pool_process.wait(10)
print(json.dumps(found))
"""


def test_dispatchers_end_and_jobs_continue(tmp_path: Path) -> None:
    done = subprocess.run(
        [str(files.ensure_venv(files.IMAGE_REQUIREMENTS) / "python"), "-P", "-c", _SCRIPT], check=True, capture_output=True,
        text=True, env={"PYTHONPATH": f"{ROOT / 'plugins'}:{ROOT}", "PATH": "/usr/bin:/bin", "AIRFLOW_HOME": str(tmp_path)},
    )  # fmt: skip
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "after a cold shutdown": [False, False],
        "after a warm shutdown": [True, False],
    }
