"""The idle bench's measurement: the CPU of ended children counts, and memory is attributed to services."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import psutil
import psycopg
import pytest

from bench.idle import Usage, build_result, measure_usage, service_of, with_descendants

# Burns CPU only in children that end, one after another, and holds 50 MiB.
BUSY_SCRIPT = """
import subprocess, sys
held = bytearray(b"x" * 50 * 2**20)
print("ready", flush=True)
while True:
    subprocess.run([sys.executable, "-S", "-c", "sum(range(4_000_000))"])
"""


@pytest.fixture
def busy_process() -> Iterator[psutil.Process]:
    environment = {**os.environ, "SUPERVISOR_PROCESS_NAME": "busy"}
    command = [sys.executable, "-c", BUSY_SCRIPT]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield psutil.Process(process.pid)
        process.kill()


def test_children_that_have_ended_count(busy_process: psutil.Process) -> None:
    found = measure_usage(lambda: [busy_process], 1.5)
    assert set(found.by_service) == {"busy"}
    assert found.cpu_percent > 20
    assert found.memory_mib > 50


def test_a_process_is_attributed_to_its_service(busy_process: psutil.Process) -> None:
    assert service_of(busy_process) == "busy"


def test_postgres_backends_count_as_postgres(server: str) -> None:
    with psycopg.connect(server) as connection:
        backend = psutil.Process(connection.info.backend_pid)
        postmaster = backend.parent()
        assert postmaster is not None
        found = {process.pid: name for process, name in with_descendants([postmaster])}
        assert found[backend.pid] == found[postmaster.pid]
        usage = measure_usage(lambda: [postmaster], 0.2)
    assert usage.memory_mib > 0


def test_ratios_are_of_medians() -> None:
    ours = [Usage(30.0, 1200.0, {}), Usage(50.0, 1200.0, {}), Usage(30.0, 1000.0, {})]
    bare = [Usage(20.0, 1000.0, {})] * 3
    found = build_result({"backline": ours, "bare": bare})
    assert found.metrics["ratio_cpu"] == pytest.approx(1.5)
    assert found.metrics["ratio_mem"] == pytest.approx(1.2)
