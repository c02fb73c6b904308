"""Every `docker compose` command shown in docs/operating.md exists in Compose and names existing services."""

from __future__ import annotations

import re
import shlex
import subprocess
from functools import cache
from pathlib import Path

import pytest

from backline.settings import ROOT
from testkit.containers import files
from tests.integration.containers.test_compose import AIRFLOW_SERVICES, WORKERS, airflow_command_errors

DOC_TEXT = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8") + files.COMPOSE_FILE.read_text(encoding="utf-8")
SHOWN_COMMANDS = [
    shlex.split(" ".join(found.split()), comments=True)
    for found in [
        *re.findall(r"`docker compose ([^`]+)`", DOC_TEXT),
        *re.findall(r"^#? *docker compose (.+)$", DOC_TEXT, re.MULTILINE),
    ]
]
SERVICES = {"postgres", "redis", *AIRFLOW_SERVICES, *WORKERS}


@cache
def help_of(*command: str) -> str:
    done = subprocess.run([str(files.compose_binary()), *command, "--help"], check=True, capture_output=True, text=True)
    return done.stdout


def find_command_error(words: list[str], home: Path) -> str | None:
    """The error in the words after `docker compose`; None if they are valid."""
    if words[:2] == ["--profile", "dev"]:
        words = words[2:]
    name, *rest = words
    if not re.search(rf"^  {re.escape(name)} ", help_of(), flags=re.MULTILINE):
        return f"no command {name!r}"
    known = help_of(name)
    for index, word in enumerate(rest):
        if word.startswith("-"):
            if not re.search(rf"(^|[ ,]){re.escape(word)}\b", known, flags=re.MULTILINE):
                return f"{name}: no option {word!r}"
        elif word in SERVICES or word.partition("=")[0] in SERVICES:
            if name == "exec":
                command = rest[index + 1 :]
                return next(iter(airflow_command_errors([command], home)), None) if command[0] == "airflow" else None
        elif not rest[index - 1].startswith("-"):
            return f"{name}: no service {word!r}"
    return None


def test_commands_are_found() -> None:
    assert len(SHOWN_COMMANDS) > 25


@pytest.mark.parametrize("words", SHOWN_COMMANDS, ids=" ".join)
def test_each_shown_command_is_valid(words: list[str], tmp_path: Path) -> None:
    assert find_command_error(words, tmp_path) is None


@pytest.mark.parametrize(
    "line",
    ["start-all", "up --detached", "logs workers", "exec scheduler airflow rotate-fernet-keys", "stop postgres mysql"],
)
def test_an_invalid_command_is_reported(line: str, tmp_path: Path) -> None:
    assert find_command_error(line.split(), tmp_path)
