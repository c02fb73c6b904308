"""Every `docker compose` command that docs/operating.md shows is one of Compose's, about services that there are."""

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
    """What is wrong with the words after `docker compose`; None if nothing is."""
    if words[:2] == ["--profile", "dev"]:
        words = words[2:]
    name, *rest = words
    if not re.search(rf"^  {re.escape(name)} ", help_of(), flags=re.MULTILINE):
        return f"no command {name!r}"
    known = help_of(name)
    for place, word in enumerate(rest):
        if word.startswith("-"):
            if not re.search(rf"(^|[ ,]){re.escape(word)}\b", known, flags=re.MULTILINE):
                return f"{name}: no option {word!r}"
        elif word in SERVICES or word.partition("=")[0] in SERVICES:
            if name == "exec":
                command = rest[place + 1 :]
                return next(iter(airflow_command_errors([command], home)), None) if command[0] == "airflow" else None
        elif not rest[place - 1].startswith("-"):
            return f"{name}: no service {word!r}"
    return None


def test_there_are_some() -> None:
    assert len(SHOWN_COMMANDS) > 25


@pytest.mark.parametrize("words", SHOWN_COMMANDS, ids=" ".join)
def test_what_is_shown_can_be_typed(words: list[str], tmp_path: Path) -> None:
    assert find_command_error(words, tmp_path) is None


@pytest.mark.parametrize(
    "line",
    ["start-all", "up --detached", "logs workers", "exec scheduler airflow rotate-fernet-keys", "stop postgres mysql"],
)
def test_what_cannot_is_found(line: str, tmp_path: Path) -> None:
    assert find_command_error(line.split(), tmp_path)
