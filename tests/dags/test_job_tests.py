"""Each job's function has a test of its own, which fails if the function does nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk.definitions.mappedoperator import MappedOperator

from backline.settings import ROOT


def split(function: str) -> tuple[str, str]:
    """Module and name of a function as `job_task` has it."""
    module, _, name = function.partition(":")
    return module, name or module.rpartition(".")[2]


FUNCTIONS = sorted({
    split(task.partial_kwargs["function"] if isinstance(task, MappedOperator) else task.function)  # type: ignore[attr-defined]
    for dag in DagBag(ROOT / "dags").dags.values()
    for task in dag.tasks
    if task.task_type == "JobOperator"
})  # fmt: skip


def file_of(module: str) -> Path:
    """The test file of a job's module."""
    _, domain, job = module.split(".")
    return ROOT / "tests" / "integration" / domain / f"test_{job}.py"


def test_jobs_are_found() -> None:
    assert len(FUNCTIONS) > 10


@pytest.mark.parametrize(("module", "name"), FUNCTIONS, ids="{0[1]}".format)
def test_each_function_has_a_test(module: str, name: str) -> None:
    file = file_of(module)
    assert file.exists(), f"add {file.relative_to(ROOT)}, which runs {name}"
    assert f"from {module} import" in file.read_text(encoding="utf-8")


@pytest.mark.extended
@pytest.mark.parametrize(("module", "name"), FUNCTIONS, ids="{0[1]}".format)
def test_its_test_fails_if_the_function_does_nothing(module: str, name: str, tmp_path: Path) -> None:
    """With the function replaced before its test file is imported."""
    (tmp_path / "replaced_function.py").write_text(
        f"import {module}\nassert callable({module}.{name})\n{module}.{name} = lambda job, **inputs: None\n",
        encoding="utf-8",
    )
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("AIRFLOW", "PYTEST"))}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "replaced_function", "-p", "no:cacheprovider", str(file_of(module))],
        check=False, cwd=ROOT, capture_output=True, text=True, timeout=280,
        env={**kept, "PYTHONPATH": f"{ROOT / 'plugins'}:{ROOT}:{tmp_path}"},
    )  # fmt: skip
    assert done.returncode == pytest.ExitCode.TESTS_FAILED, done.stdout[-3000:] + done.stderr[-2000:]
