"""The command's app, its options and output, and the installation it works on."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import os
import pwd
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from backline.airflow_api import AirflowClient
from backline.audit_trail import Actor
from backline.db.connect import Session, session
from backline.dead_letters.runs import AirflowRuns
from backline.encryption import KEYS_VARIABLE, Encryptor
from backline.errors import InvalidInput, Misconfigured
from backline.messages.fields import parse_timestamp

T = TypeVar("T")
PIPE_WIDTH = 240
INSTALLATION_VARIABLES = ("BACKLINE_DATABASE_URL", "BACKLINE_URL", "BACKLINE_USER", "BACKLINE_PASSWORD")
"""With these in the environment, the commands work on that installation instead of the embedded stack."""
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
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def visible(text: str) -> str:
    """The text with control characters written as escapes: a message's text must not steer the terminal."""
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def one_line(text: str) -> str:
    """As `visible`, without line breaks: a message's text must not look like a line of ours."""
    return visible(text).replace("\n", "\\n")


class _SafeConsole(Console):
    def render_str(self, text: str, **options: Any) -> Text:
        """Of every text, also of a table's cell."""
        return super().render_str(visible(text), **options)


out = _SafeConsole(highlight=False, soft_wrap=True)
err = _SafeConsole(stderr=True, highlight=False, soft_wrap=True)


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


def installation_variables() -> dict[str, str]:
    """The variables of the installation that the commands work on; Misconfigured if there is none."""
    given = {name: os.environ[name] for name in INSTALLATION_VARIABLES if os.environ.get(name)}
    if importlib.util.find_spec("stack") is not None:
        stack = importlib.import_module("stack.lifecycle").Stack(print_progress)
        return {**stack.variables(), **given}
    if len(given) < len(INSTALLATION_VARIABLES):
        names = ", ".join(INSTALLATION_VARIABLES)
        raise Misconfigured(f"there is no embedded stack here; set {names}, or run ./backline in the project's folder")
    return {**os.environ, **given}


def database(name: str) -> AbstractContextManager[Session]:
    """A connection to the app's database, named after its purpose."""
    return session(installation_variables()["BACKLINE_DATABASE_URL"], name=name)


@contextmanager
def transaction(name: str) -> Iterator[Session]:
    """A connection to the app's database, in one transaction."""
    with database(name) as connection, connection.transaction():
        yield connection


def encryptor() -> Encryptor:
    """The installation's encryption keys."""
    keys = os.environ.get(KEYS_VARIABLE) or installation_variables()[KEYS_VARIABLE]
    return Encryptor(key.strip() for key in keys.split(","))


def airflow_api() -> AirflowClient:
    """Airflow's REST API, as the user of BACKLINE_USER."""
    known = installation_variables()
    return AirflowClient(known["BACKLINE_URL"], known["BACKLINE_USER"], known["BACKLINE_PASSWORD"])


@contextmanager
def airflow_runs() -> Iterator[AirflowRuns]:
    """Airflow's runs, for the replay of dead letters."""
    known = installation_variables()
    # DAG bundles are read from Airflow's own settings.
    os.environ.update({name: value for name, value in known.items() if name.startswith("AIRFLOW")})
    with airflow_api() as api:
        yield AirflowRuns(api, known["BACKLINE_URL"], _bundle_folder)


def _bundle_folder(bundle: str | None) -> Path:
    from airflow.dag_processing.bundles.manager import DagBundlesManager

    return Path(DagBundlesManager().get_bundle(bundle or "dags-folder").path)  # type: ignore[no-untyped-call]


def actor() -> Actor:
    """The user of the command, for audit trails."""
    return Actor(f"{pwd.getpwuid(os.geteuid()).pw_name} (command)")


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


def print_json(value: object, indent: int | None = 2) -> None:
    """A value as JSON, with times as ISO 8601."""
    text = json.dumps(value, indent=indent, ensure_ascii=False, default=_to_json)
    typer.echo(
        _CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", text)
    )  # JSON itself escapes only those below a space


def _to_json(value: object) -> object:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return value.isoformat() if isinstance(value, datetime) else str(value)


def print_result(result: object, text: str, as_json: bool) -> None:
    """A result as JSON or as text."""
    if as_json:
        print_json(result)
    else:
        out.print(text, markup=False)


def print_rows(rows: Sequence[T], columns: Mapping[str, Callable[[T], object]], empty: str, as_json: bool) -> None:
    """Rows as JSON, or as a table with these columns; `empty` is printed if there is none."""
    if as_json:
        print_json(rows)
    elif not rows:
        out.print(empty, markup=False)
    else:
        table = Table(*columns, box=None)
        for row in rows:
            add_row(table, *(str(cell(row)) for cell in columns.values()))
        show_table(table)


def print_fields(fields: Iterable[tuple[str, object]]) -> None:
    """A table of names and values, without empty ones."""
    table = Table(box=None, show_header=False)
    for name, value in fields:
        if value not in (None, ""):
            table.add_row(name.replace("_", " "), Text(visible(str(value))))
    show_table(table)


def add_row(table: Table, *cells: str) -> None:
    """A row of plain text, which may look like markup."""
    table.add_row(*(Text(one_line(cell)) for cell in cells))


def show_table(table: Table) -> None:
    """A table as wide as the terminal; in a file or pipe, wide enough for one line per row."""
    (out if out.is_terminal else _SafeConsole(highlight=False, width=PIPE_WIDTH)).print(table)


def format_local(time: datetime | None, fallback: str = "", *, pattern: str = "%Y-%m-%d %H:%M:%S") -> str:
    """A time in the local time zone."""
    return time.astimezone().strftime(pattern) if time else fallback


def shorten(text: str, max_length: int = 90) -> str:
    """The last line of a text, cut."""
    line = text.strip().splitlines()[-1] if text.strip() else ""
    return line if len(line) <= max_length else line[: max_length - 1] + "…"
