"""How the command speaks: progress and errors on stderr, results on stdout."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.table import Table
from rich.text import Text

from backline.airflow.rest import AirflowRest
from backline.airflow.runs import AirflowRuns
from stack.lifecycle import Stack

PIPE_WIDTH = 240
INSTALLATION_VARIABLES = ("BACKLINE_DATABASE_URL", "BACKLINE_URL", "BACKLINE_USER", "BACKLINE_PASSWORD")
"""Set these, and the commands work on that installation in place of the embedded one."""

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def print_progress(line: str) -> None:
    """One step of something longer."""
    err.print(f"backline: {line}", style="dim", markup=False)


def stack() -> Stack:
    """The copy of the stack that BACKLINE_HOME and BACKLINE_PORT name."""
    return Stack(print_progress)


def installation_variables() -> dict[str, str]:
    """The variables of the installation that commands work on."""
    return {
        **stack().variables(),
        **{name: os.environ[name] for name in INSTALLATION_VARIABLES if os.environ.get(name)},
    }


@contextmanager
def airflow_api() -> Iterator[AirflowRest]:
    """Airflow's REST API, as the user of BACKLINE_USER."""
    known = installation_variables()
    with AirflowRest(known["BACKLINE_URL"], known["BACKLINE_USER"], known["BACKLINE_PASSWORD"]) as rest:
        yield rest


@contextmanager
def airflow_runs() -> Iterator[AirflowRuns]:
    """Airflow's runs, as dead letters see them."""
    known = installation_variables()
    # What touches DAG files reads Airflow's settings.
    os.environ.update({name: value for name, value in known.items() if name.startswith("AIRFLOW")})
    with airflow_api() as rest:
        yield AirflowRuns(rest, known["BACKLINE_URL"])


def current_operator() -> str:
    """Who runs the command, for what is written down about it."""
    return f"{pwd.getpwuid(os.geteuid()).pw_name} (command)"


def add_row(table: Table, *cells: str) -> None:
    """A row of text as it is: others' words may look like markup."""
    table.add_row(*(Text(cell) for cell in cells))


def show_table(table: Table) -> None:
    """A table, as wide as the terminal; into a file or pipe, with room for its lines."""
    (out if out.is_terminal else Console(highlight=False, width=PIPE_WIDTH)).print(table)


def shorten(text: str, max_length: int = 90) -> str:
    """The last line of a text, cut."""
    line = text.strip().splitlines()[-1] if text.strip() else ""
    return line if len(line) <= max_length else line[: max_length - 1] + "…"
