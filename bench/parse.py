"""parse: how long it takes to import our DAG files.

Every task loads the plugins and parses its own DAG file in a new process; the DAG processor parses all files. The
import of Airflow and the parsing of a trivial DAG file come first and are not counted. Measured are the plugins and all
files together, and each file alone: in a fork with the plugins loaded, for one of its DAGs, as in a task.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from backline.errors import UnknownFailure
from backline.settings import ROOT
from bench.harness import BenchRun
from bench.report import BenchResult, rounded

TRIVIAL_DAG = """\
from datetime import datetime
from airflow.sdk import DAG, BaseOperator
with DAG("trivial", schedule="@daily", start_date=datetime(2026, 1, 1)):
    BaseOperator(task_id="nothing")
"""
HEAVIEST_COUNT = 12


def run(bench: BenchRun) -> BenchResult:
    """Measure every DAG file of the project."""
    return measure(dag_files(), bench.full_or_short(7, 1), bench.report)


def dag_files() -> list[Path]:
    """All DAG files, sorted by name."""
    return sorted((ROOT / "dags").rglob("*.py"))


def measure(files: Sequence[Path], rounds: int, report: Callable[[str], None], *, imports: bool = True) -> BenchResult:
    """Medians over `rounds`; UnknownFailure if a file cannot be imported or defines no DAG.

    With `imports`, also find the slowest modules.
    """
    together, plugins, baseline = [], [], []
    single: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="backline-bench-") as home:
        trivial = Path(home) / "trivial.py"
        trivial.write_text(TRIVIAL_DAG, encoding="utf-8")
        _run_probe(home, files)  # writes bytecode and airflow.cfg
        for _ in range(rounds):
            found = _run_probe(home, files)
            together.append(found["plugins"] + sum(each["seconds"] for each in found["together"].values()))
            plugins.append(found["plugins"])
            baseline.append(found["baseline"])
            for file in files:
                dag_id = max(found["together"][str(file)]["dags"])
                alone = found["alone"][str(file)]
                if dag_id not in alone["dags"]:
                    raise UnknownFailure(f"{file} did not define {dag_id} when parsed for it alone")
                single[str(file.relative_to(ROOT))].append(alone["seconds"])
        heaviest = _heaviest_imports(home, files) if imports else {}
    report(f"parse: {len(files)} files")
    each_ms = {name: round(median(seconds) * 1000, 1) for name, seconds in single.items()}
    keys = {
        "total_s": median(together),
        "worst_ms": max(each_ms.values()),
        "plugins_ms": median(plugins) * 1000,
        "files": len(files),
    }
    raw: dict[str, Any] = {
        "total_s": rounded(together), "anyway_s": rounded(baseline), "each_ms": each_ms, "heaviest_imports_ms": heaviest,
    }  # fmt: skip
    return BenchResult("parse", keys, raw)


def _run_probe(home: str, files: Sequence[Path]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(_run_python(home, files, after=["--alone"]).stdout.splitlines()[-1])
    empty = [path for path, each in found["together"].items() if not each["dags"]]
    if empty:
        raise UnknownFailure(f"{empty[0]} defines no DAG")
    return found


def _run_python(
    home: str, files: Sequence[Path], *, before: Sequence[str] = (), after: Sequence[str] = ()
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", *before, "-m", "bench.parse_probe", f"{home}/trivial.py", *map(str, files), *after]
    done = subprocess.run(
        command, check=False, env=_probe_environment(home), stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if done.returncode:
        raise UnknownFailure(f"parse: {' '.join(done.stderr.split())[-400:]}")
    return done


def _probe_environment(home: str) -> Mapping[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("AIRFLOW")}
    return {
        **kept,
        "AIRFLOW_HOME": home,
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "PYTHONPATH": f"{ROOT / 'plugins'}:{ROOT}",
        "PYTHONDONTWRITEBYTECODE": "",  # as in the stack
    }


def _heaviest_imports(home: str, files: Sequence[Path]) -> dict[str, float]:
    """Milliseconds of the own code of each module that our files import, by -X importtime; slowest first."""
    bare = _parse_import_times(_run_python(home, [], before=["-X", "importtime"]).stderr)
    ours = _parse_import_times(_run_python(home, files, before=["-X", "importtime"]).stderr)
    added = sorted(((name, ms) for name, ms in ours.items() if name not in bare), key=lambda item: -item[1])
    return {name: round(ms, 1) for name, ms in added[:HEAVIEST_COUNT]}


def _parse_import_times(text: str) -> dict[str, float]:
    """Module → milliseconds, from lines such as `import time:   1234 |   5678 | name`."""
    lines = (
        line.removeprefix("import time:").split("|") for line in text.splitlines() if line.startswith("import time:")
    )
    return {name.strip(): int(own) / 1000 for own, _, name in lines if own.strip().isdigit()}
