"""The Dockerfile, by Docker's own parser, and the image's libraries compared with the project's."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from backline.settings import ROOT
from testkit.commands import lock_problems, locked_versions
from testkit.containers import files

IMAGE_REQUIREMENTS_IN = ROOT / "requirements-image.in"


@pytest.fixture(scope="module")
def dockerfile_steps() -> list[dict[str, Any]]:
    return files.dockerfile_instructions()


def copied_paths(dockerfile_steps: list[dict[str, Any]]) -> list[str]:
    """The paths that are copied from the project."""
    return [
        source
        for step in dockerfile_steps
        if step["cmd"] in ("COPY", "ADD") and not any(flag.startswith("--from") for flag in step["flags"])
        for source in step["value"][:-1]
    ]


def test_what_it_copies_exists_and_is_not_ignored(dockerfile_steps: list[dict[str, Any]]) -> None:
    sources = copied_paths(dockerfile_steps)
    assert {"plugins", "include", "dags", "requirements-image.txt", "sandbox"} == set(sources)
    assert [source for source in sources if not (ROOT / source).exists()] == []
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    # Only what is copied is sent to the builder, never a secret or state.
    assert [line for line in lines if line and not line.startswith("#")] == [
        "*", *(f"!{source}" for source in sorted(sources)), "**/__pycache__", "**/*.py[co]",
    ]  # fmt: skip


def test_it_does_not_run_as_root(dockerfile_steps: list[dict[str, Any]]) -> None:
    users: dict[str, str] = {}
    stage = ""
    for step in dockerfile_steps:
        if step["cmd"] == "FROM":
            parent, stage = step["value"][0], step["value"][-1]
            users[stage] = users.get(parent, "root")
        elif step["cmd"] == "USER":
            users[stage] = step["value"][0]
    assert (users["backline"], users["sandbox"]) == ("backline", "backline")


def test_it_holds_no_secret(dockerfile_steps: list[dict[str, Any]]) -> None:
    given = {name for step in dockerfile_steps if step["cmd"] in ("ENV", "ARG") for name in step["value"]}
    assert [name for name in given if re.search("PASSWORD|SECRET|KEY|TOKEN|CONN", name)] == []


def test_every_stage_is_from_the_same_pinned_base(dockerfile_steps: list[dict[str, Any]]) -> None:
    [base] = [step["value"][0] for step in dockerfile_steps if step["cmd"] == "ARG"]
    assert re.fullmatch(r"BASE=python:3\.1[123]-slim-bookworm", base)
    parents = [step["value"][0] for step in dockerfile_steps if step["cmd"] == "FROM"]
    assert set(parents) <= {"${BASE}", *(step["value"][-1] for step in dockerfile_steps if step["cmd"] == "FROM")}


def test_its_debian_packages_exist(dockerfile_steps: list[dict[str, Any]]) -> None:
    [run] = [" ".join(step["value"]) for step in dockerfile_steps if "apt-get install" in " ".join(step["value"])]
    words = run.partition("apt-get install")[2].partition("&&")[0].split()
    packages = [word for word in words if not word.startswith("-")]
    assert packages == sorted(packages)
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9+.-]+", package) for package in packages)
    assert "--no-install-recommends" in words
    assert "rm -rf /var/lib/apt/lists/*" in run
    if shutil.which("apt-cache"):
        known = subprocess.run(["apt-cache", "policy", *packages], check=True, capture_output=True, text=True).stdout
        if "Candidate" in known:  # without package lists there are none
            assert [package for package in packages if f"{package}:\n" not in known] == []


def test_libraries_are_locked_with_hashes_and_name_no_index() -> None:
    assert lock_problems(IMAGE_REQUIREMENTS_IN, files.IMAGE_REQUIREMENTS) == []
    assert "://" not in files.IMAGE_REQUIREMENTS.read_text(encoding="utf-8")


def test_libraries_have_the_versions_of_the_project() -> None:
    laptop, image = locked_versions(ROOT / "requirements.txt"), locked_versions(files.IMAGE_REQUIREMENTS)
    shared = laptop.keys() & image.keys()
    assert len(shared) > 100
    assert {name: (laptop[name], image[name]) for name in shared if laptop[name] != image[name]} == {}


def test_every_library_needed_at_run_time_is_in_the_image() -> None:
    """The sections of requirements.in for running, not those for testing or the embedded stack."""
    sections: dict[str, set[str]] = {}
    for block in (ROOT / "requirements.in").read_text(encoding="utf-8").split("\n\n"):
        title, *lines = block.splitlines()
        sections[title] = {line.split("#")[0].strip() for line in lines}
    image = {line.split("#")[0].strip() for line in IMAGE_REQUIREMENTS_IN.read_text(encoding="utf-8").splitlines()}
    wanted = sections["# Airflow"] | sections["# The library"]
    assert len(wanted) > 18
    assert wanted - image == set()
    assert image - wanted - {""} == {"apache-airflow-providers-celery", "celery[redis]<5.7"}


def test_all_modules_that_run_in_a_container_can_be_imported_with_the_images_libraries(tmp_path: Path) -> None:
    names = [
        ".".join(path.relative_to(root).with_suffix("").parts)
        for root, folder in ((ROOT / "plugins", "backline"), (ROOT, "sandbox"))
        for path in sorted((root / folder).rglob("*.py"))
    ]
    # The command is not used in the image.
    wanted = [name.removesuffix(".__init__") for name in names if not name.startswith("backline.cli")]
    assert {"backline.airflow.maintenance", "backline.airflow.health_probe"} <= set(wanted)
    code = f"""
import importlib, json
wrong = []
for name in {wanted!r}:
    try:
        importlib.import_module(name)
    except ImportError as exc:
        wrong.append(f"{{name}}: {{exc}}")
print(json.dumps(wrong))
"""
    done = subprocess.run(
        [str(files.ensure_venv(files.IMAGE_REQUIREMENTS) / "python"), "-P", "-c", code], check=True, capture_output=True,
        text=True, env={"PYTHONPATH": f"{ROOT / 'plugins'}:{ROOT}", "AIRFLOW_HOME": str(tmp_path), "PATH": "/usr/bin"},
    )  # fmt: skip
    assert len(wanted) > 70
    assert json.loads(done.stdout.splitlines()[-1]) == []
