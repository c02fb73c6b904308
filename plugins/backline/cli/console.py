"""Shared by all commands: the consoles (progress and errors on stderr, results on stdout) and the installation in use."""

from __future__ import annotations

import importlib
import importlib.util
import os
import pwd
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

from rich.console import Console
from rich.table import Table
from rich.text import Text

from backline.airflow.rest import AirflowRest
from backline.airflow.runs import AirflowRuns
from backline.errors import Misconfigured

PIPE_WIDTH = 240
INSTALLATION_VARIABLES = ("BACKLINE_DATABASE_URL", "BACKLINE_URL", "BACKLINE_USER", "BACKLINE_PASSWORD")
"""If these are set, commands work on that installation instead of the embedded stack."""

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


class LocalStack(Protocol):
    """What the library's commands use of stack.lifecycle.Stack, which it does not import."""

    def variables(self) -> dict[str, str]:
        """The stack's environment variables."""

    def subprocess_environment(self) -> dict[str, str]:
        """The environment of this process with the stack's variables."""

    def temporary_setup(self) -> AbstractContextManager[None]:
        """Set up, and stop afterwards what that started."""


def print_progress(line: str) -> None:
    """Print one step of a longer operation."""
    err.print(f"backline: {line}", style="dim", markup=False)


def local_stack() -> LocalStack:
    """The embedded stack of BACKLINE_HOME and BACKLINE_PORT; Misconfigured outside of the project's folder."""
    if importlib.util.find_spec("stack") is None:
        names = ", ".join(INSTALLATION_VARIABLES)
        raise Misconfigured(f"there is no embedded stack here; set {names}, or run ./backline in the project's folder")
    stack: LocalStack = importlib.import_module("stack.lifecycle").Stack(print_progress)
    return stack


def installation_variables() -> dict[str, str]:
    """The variables of the installation that commands work on."""
    given = {name: os.environ[name] for name in INSTALLATION_VARIABLES if os.environ.get(name)}
    if len(given) == len(INSTALLATION_VARIABLES) and importlib.util.find_spec("stack") is None:
        return {**os.environ, **given}
    return {**local_stack().variables(), **given}


@contextmanager
def airflow_api() -> Iterator[AirflowRest]:
    """Airflow's REST API, as the user of BACKLINE_USER."""
    known = installation_variables()
    with AirflowRest(known["BACKLINE_URL"], known["BACKLINE_USER"], known["BACKLINE_PASSWORD"]) as rest:
        yield rest


@contextmanager
def airflow_runs() -> Iterator[AirflowRuns]:
    """Airflow's runs, as dead letters use them."""
    known = installation_variables()
    # Code that reads DAG files needs Airflow's settings.
    os.environ.update({name: value for name, value in known.items() if name.startswith("AIRFLOW")})
    with airflow_api() as rest:
        yield AirflowRuns(rest, known["BACKLINE_URL"])


def current_operator() -> str:
    """The user who runs the command, for the audit trail."""
    return f"{pwd.getpwuid(os.geteuid()).pw_name} (command)"


def add_row(table: Table, *cells: str) -> None:
    """Add a row of plain text, in which markup is not interpreted."""
    table.add_row(*(Text(cell) for cell in cells))


def show_table(table: Table) -> None:
    """Print a table as wide as the terminal, or PIPE_WIDTH characters wide into a file or pipe."""
    (out if out.is_terminal else Console(highlight=False, width=PIPE_WIDTH)).print(table)


def shorten(text: str, max_length: int = 90) -> str:
    """The last line of a text, cut to `max_length` characters."""
    line = text.strip().splitlines()[-1] if text.strip() else ""
    return line if len(line) <= max_length else line[: max_length - 1] + "…"
