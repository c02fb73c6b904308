"""The layers point one way: dags, web, cli and demo → backline.airflow → the library; nothing needs the sandbox."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from backline.settings import ROOT

PLUGINS = ROOT / "plugins"
PACKAGE = PLUGINS / "backline"
OUTER = ("airflow", "web", "cli", "demo")
LIBRARY = [path for path in sorted(PACKAGE.rglob("*.py")) if path.relative_to(PACKAGE).parts[0] not in OUTER]
DAGS = sorted((ROOT / "dags").rglob("*.py"))
ENGINE = ("backline.outbox", "backline.db", "backline.messages", "backline.channels")
DAG_IMPORTS = ("backline.airflow", "backline.settings", "backline.messages", "airflow.sdk")


def imports(path: Path) -> Iterator[str]:
    """Full names of what a file imports anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def within(name: str, packages: tuple[str, ...]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_the_library_knows_no_airflow(path: Path) -> None:
    above = tuple(f"backline.{outer}" for outer in OUTER)
    wrong = [name for name in imports(path) if within(name, ("airflow", *above))]
    assert not wrong


def test_the_engine_loads_without_airflow() -> None:
    names = [
        ".".join(path.relative_to(PLUGINS).with_suffix("").parts) for path in LIBRARY if path.name != "__init__.py"
    ]
    wanted = [name for name in names if within(name, (*ENGINE, "backline.dead_letters", "backline.jobs"))]
    assert len(wanted) > 20
    code = f"import sys\nfor name in {wanted!r}: __import__(name)\nsys.exit('airflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(PLUGINS)}, check=False, cwd="/")
    assert done.returncode == 0


def test_nothing_of_ours_needs_the_sandbox() -> None:
    wrong = [
        (path, name) for path in [*PLUGINS.rglob("*.py"), *DAGS] for name in imports(path) if within(name, ("sandbox",))
    ]
    assert not wrong


@pytest.mark.parametrize("path", DAGS, ids=lambda path: path.name)
def test_dag_files_only_wire(path: Path) -> None:
    allowed = (*DAG_IMPORTS, "__future__")
    wired = [name for name in imports(path) if not re.match(r"backline\.\w+\.settings\.", name)]  # a domain's settings
    assert [name for name in wired if not within(name, allowed)] == []


@pytest.mark.parametrize("path", DAGS, ids=lambda path: path.name)
def test_dag_files_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 150


def test_library_modules_are_no_longer_than_400_lines() -> None:
    assert [path for path in PACKAGE.rglob("*.py") if len(path.read_text().splitlines()) > 400] == []
