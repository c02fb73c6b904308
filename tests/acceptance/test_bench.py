"""`./backline bench` in its short form: every letter arrives, and each last line has its keys. No time is judged."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.acceptance.running import new_copy, remove

pytestmark = pytest.mark.stack

# DESIGN.md section 9: scripts rely on these names.
KEYS = {
    "latency": {"p50_ms", "p99_ms", "celery_p50_ms", "cold_p99_ms"},
    "throughput": {"ratio", "ratio_best", "ratio_ceiling", "ratio_procrastinate", "ratio_pgqueuer"},
    "priority": {"p99_ms"},
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The benches that share a stack, run once: their last lines by name, what --json has, and the folder."""
    copy = new_copy()
    file = tmp_path_factory.mktemp("bench") / "figures.json"
    try:
        done = copy.backline("bench", *KEYS, "--short", "--json", str(file))
        left = sorted(path.name for path in (copy.home / "bench").iterdir())
    finally:
        remove(copy)
    lines = dict(line.removeprefix("bench ").split(": ", 1) for line in done.stdout.splitlines())
    return {"lines": lines, "figures": json.loads(file.read_text()), "left": left}


@pytest.mark.parametrize("name", KEYS)
def test_last_line(name: str, bench: dict[str, Any]) -> None:
    figures = dict(part.split("=") for part in bench["lines"][name].split())
    assert figures.keys() >= KEYS[name]
    assert all(float(value) > 0 for value in figures.values())


def test_file(bench: dict[str, Any]) -> None:
    figures = bench["figures"]
    assert list(figures["benches"]) == list(KEYS)
    assert figures["short"]
    assert figures["versions"]["celery"].startswith("5.7")
    assert figures["versions"]["procrastinate"].startswith("3.10")
    assert figures["versions"]["pgqueuer"].startswith("1.6")
    assert figures["machine"]["cores"] > 0
    assert len(figures["benches"]["latency"]["ms"]) == figures["benches"]["latency"]["samples"]


def test_only_what_was_fetched_is_left(bench: dict[str, Any]) -> None:
    assert bench["left"] == ["logs", "tools", "venv"]


def test_an_unknown_bench_is_named() -> None:
    copy = new_copy()
    try:
        done = copy.backline("bench", "latencey", check=False)
    finally:
        remove(copy)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("backline: no bench 'latencey'; use one of latency,")
