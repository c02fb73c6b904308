"""The layers point one way: dags → backline.{airflow,web,cli} → the library; outside of plugins, each folder has its own rule."""

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
OUTER = ("airflow", "web", "cli")
"""Packages of the library that may import Airflow."""
TOOLS = ("stack", "sandbox", "testkit", "demo", "bench", "chaos", "tests")
"""Top-level folders beside the library, which imports none of them."""
ALLOWED_TOOLS = {
    "sandbox": (),
    "stack": (),
    "testkit": ("stack", "sandbox"),
    "demo": ("stack", "testkit"),
    "bench": ("stack", "sandbox", "testkit"),
    "chaos": ("stack", "sandbox", "testkit", "demo"),
}
"""Folder → the other folders that it may import."""
LIBRARY = [path for path in sorted(PACKAGE.rglob("*.py")) if path.relative_to(PACKAGE).parts[0] not in OUTER]
DAGS = sorted((ROOT / "dags").rglob("*.py"))
ENGINE = ("backline.outbox", "backline.db", "backline.messages", "backline.channels")
DAG_IMPORTS = ("backline.airflow", "backline.settings", "backline.messages", "airflow.sdk")
SHIPPED = [*sorted(PLUGINS.rglob("*.py")), *DAGS]


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
def test_the_library_imports_neither_airflow_nor_outer_packages(path: Path) -> None:
    above = tuple(f"backline.{outer}" for outer in OUTER)
    wrong = [name for name in imports(path) if within(name, ("airflow", *above))]
    assert not wrong


@pytest.mark.parametrize("package", ["smtp_pipeline", "template_css"])
def test_independent_packages_import_nothing_of_backline(package: str) -> None:
    found = [name for path in (PLUGINS / package).glob("*.py") for name in imports(path)]
    assert found
    assert not [name for name in found if within(name, ("backline", "airflow", *TOOLS))]


def test_airflow_takes_no_package_for_a_plugin() -> None:
    packages = {path.parent.name for path in PLUGINS.glob("*/__init__.py")}
    assert packages == {line.rstrip("/") for line in (PLUGINS / ".airflowignore").read_text().split()}


def test_the_engine_loads_without_airflow() -> None:
    names = [
        ".".join(path.relative_to(PLUGINS).with_suffix("").parts) for path in LIBRARY if path.name != "__init__.py"
    ]
    wanted = [name for name in names if within(name, (*ENGINE, "backline.dead_letters", "backline.jobs"))]
    assert len(wanted) > 20
    code = f"import sys\nfor name in {wanted!r}: __import__(name)\nsys.exit('airflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(PLUGINS)}, check=False, cwd="/")
    assert done.returncode == 0


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_shipped_imports_no_folder_beside_the_library(path: Path) -> None:
    assert [name for name in imports(path) if within(name, TOOLS)] == []


@pytest.mark.parametrize("folder", ALLOWED_TOOLS)
def test_each_folder_imports_only_the_folders_below_it(folder: str) -> None:
    denied = tuple(name for name in TOOLS if name not in (folder, *ALLOWED_TOOLS[folder]))
    paths = sorted((ROOT / folder).rglob("*.py"))
    assert paths
    assert [(str(path), name) for path in paths for name in imports(path) if within(name, denied)] == []


def test_every_folder_with_modules_has_a_rule() -> None:
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert folders == set(ALLOWED_TOOLS)


@pytest.mark.parametrize("folder", [folder for folder in ALLOWED_TOOLS if folder != "stack"])
def test_only_command_modules_import_the_cli(folder: str) -> None:
    found = {
        path.name
        for path in (ROOT / folder).rglob("*.py")
        if any(within(name, ("backline.cli",)) for name in imports(path))
    }
    assert found <= {"commands.py"}


def test_the_command_starts_without_the_folders_beside_the_library() -> None:
    """As in the image: only the library is on the path, and its own commands are offered."""
    code = (
        "from backline.cli.__main__ import load_commands; load_commands()\n"
        "from backline.cli.console import app\n"
        "import typer; print(*sorted(typer.main.get_command(app).commands))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], env={"PYTHONPATH": str(PLUGINS), "PATH": "/usr/bin:/bin"},
        cwd="/", check=True, capture_output=True, text=True,
    )  # fmt: skip
    commands = set(done.stdout.split())
    assert {"send", "inspect", "migrate", "dead-letters"} <= commands
    assert not {"up", "down", "setup", "demo", "bench", "chaos"} & commands


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


LAYER = re.compile(r'\w+\["(?:<b>[^<]*</b><br>)?([\w, ]+)"\]')
UPWARD_IMPORTS = {("db/migrate.py", "messages"), ("jobs/job.py", "payments")}
"""A migration also registers the message types; the type of `Job.provider` is the payment provider's."""


def test_the_diagram_of_layers_is_true() -> None:
    """docs/architecture.md: every folder is in one layer, and imports only from its own layer and those below."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    diagram = page.partition("## Layers")[2].partition("```mermaid")[2].partition("```")[0]
    level = {name: index for index, names in enumerate(LAYER.findall(diagram)) for name in names.split(", ")}
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert level.keys() == folders | {"dags"}
    upward = set()
    for folder in folders:
        for path in (PACKAGE / folder).rglob("*.py"):
            imported = {name.split(".")[1] for name in imports(path) if name.startswith("backline.")} & folders
            upward |= {(str(path.relative_to(PACKAGE)), name) for name in imported if level[name] < level[folder]}
    assert upward == UPWARD_IMPORTS
