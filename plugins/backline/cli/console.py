"""The command's app, its output (progress and errors on stderr, results on stdout), and the installation it works on."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import os
import pwd
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from typing import Annotated, Any, Protocol

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from backline.airflow.runs import AirflowRuns
from backline.airflow_api import AirflowClient
from backline.db.connect import Session, session
from backline.encryption import KEYS_VARIABLE, Encryptor
from backline.errors import InvalidInput, Misconfigured
from backline.messages.fields import parse_timestamp

PIPE_WIDTH = 240
INSTALLATION_VARIABLES = ("BACKLINE_DATABASE_URL", "BACKLINE_URL", "BACKLINE_USER", "BACKLINE_PASSWORD")
"""With these in the environment, the commands work on that installation instead of the embedded one."""
PASS_THROUGH = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
"""For commands that pass all their arguments on."""
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable, on stdout.")]

app = typer.Typer(
    name="backline",
    help="Backline: background work for product teams, on Apache Airflow.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"backline on Airflow {importlib.metadata.version('apache-airflow-core')}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Backline: background work for product teams, on Apache Airflow."""


def add_group(name: str, summary: str) -> typer.Typer:
    """A new group of commands."""
    group = typer.Typer(name=name, help=summary, no_args_is_help=True, rich_markup_mode=None)
    app.add_typer(group)
    return group


# --- the installation


class LocalStack(Protocol):
    """What the library's commands use of stack.lifecycle.Stack, which it does not import."""

    def variables(self) -> dict[str, str]:
        """The stack's environment variables."""

    def subprocess_environment(self) -> dict[str, str]:
        """The environment of this process with the stack's variables."""

    def temporary_setup(self) -> AbstractContextManager[None]:
        """Set up, and stop afterwards what that started."""


def local_stack() -> LocalStack:
    """The embedded stack of BACKLINE_HOME and BACKLINE_PORT; Misconfigured outside of the project's folder."""
    if importlib.util.find_spec("stack") is None:
        names = ", ".join(INSTALLATION_VARIABLES)
        raise Misconfigured(f"there is no embedded stack here; set {names}, or run ./backline in the project's folder")
    stack: LocalStack = importlib.import_module("stack.lifecycle").Stack(print_progress)
    return stack


def installation_variables() -> dict[str, str]:
    """The variables of the installation that the commands work on."""
    given = {name: os.environ[name] for name in INSTALLATION_VARIABLES if os.environ.get(name)}
    if len(given) == len(INSTALLATION_VARIABLES) and importlib.util.find_spec("stack") is None:
        return {**os.environ, **given}
    return {**local_stack().variables(), **given}


@contextmanager
def database(name: str) -> Iterator[Session]:
    """A connection to the app's database; `name` tells what for."""
    with session(installation_variables()["BACKLINE_DATABASE_URL"], name=name) as connection:
        yield connection


def encryptor() -> Encryptor:
    """The installation's encryption keys."""
    keys = os.environ.get(KEYS_VARIABLE) or installation_variables()[KEYS_VARIABLE]
    return Encryptor(key.strip() for key in keys.split(","))


@contextmanager
def airflow_api() -> Iterator[AirflowClient]:
    """Airflow's REST API, as the user of BACKLINE_USER."""
    known = installation_variables()
    with AirflowClient(known["BACKLINE_URL"], known["BACKLINE_USER"], known["BACKLINE_PASSWORD"]) as api:
        yield api


@contextmanager
def airflow_runs() -> Iterator[AirflowRuns]:
    """Airflow's runs, for the replay of dead letters."""
    known = installation_variables()
    # Parsing a DAG file again may need Airflow's own settings.
    os.environ.update({name: value for name, value in known.items() if name.startswith("AIRFLOW")})
    with airflow_api() as api:
        yield AirflowRuns(api, known["BACKLINE_URL"])


def current_operator() -> str:
    """The user of the command, for audit trails."""
    return f"{pwd.getpwuid(os.geteuid()).pw_name} (command)"


# --- options


def parse_json_object(option: str, text: str) -> dict[str, Any]:
    """A JSON object given on the command line; InvalidInput names the option."""
    try:
        value = json.loads(text)
    except ValueError as exc:
        raise InvalidInput(option, f'is not valid JSON ({exc}); give an object such as {{"days": 7}}') from None
    if not isinstance(value, dict):
        raise InvalidInput(option, 'must be a JSON object such as {"days": 7}')
    return value


def parse_time(option: str, text: str | None) -> datetime | None:
    """A time given on the command line; InvalidInput names the option."""
    try:
        return None if text is None else parse_timestamp(text)
    except ValueError as exc:
        raise InvalidInput(option, str(exc)) from None


# --- output


def print_progress(line: str) -> None:
    """One step of a longer command, on stderr."""
    err.print(f"backline: {line}", style="dim", markup=False)


def print_json(value: object) -> None:
    """A value as JSON; times as ISO 8601."""
    typer.echo(
        json.dumps(value, indent=2, default=lambda one: one.isoformat() if isinstance(one, datetime) else str(one))
    )


def print_result(result: object, text: str, as_json: bool) -> None:
    """A result as JSON or as text."""
    if as_json:
        print_json(result)
    else:
        out.print(text, markup=False)


def add_row(table: Table, *cells: str) -> None:
    """A row of plain text, which may look like markup."""
    table.add_row(*(Text(cell) for cell in cells))


def show_table(table: Table) -> None:
    """A table as wide as the terminal; in a file or pipe, wide enough for one line per row."""
    (out if out.is_terminal else Console(highlight=False, width=PIPE_WIDTH)).print(table)


def format_local(time: datetime | None, fallback: str = "") -> str:
    """A time in the local time zone, to the second."""
    return f"{time.astimezone():%Y-%m-%d %H:%M:%S}" if time else fallback


def shorten(text: str, max_length: int = 90) -> str:
    """The last line of a text, cut."""
    line = text.strip().splitlines()[-1] if text.strip() else ""
    return line if len(line) <= max_length else line[: max_length - 1] + "…"
