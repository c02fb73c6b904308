"""The command's app, to which each module of commands adds its own."""

from __future__ import annotations

import importlib.metadata
from typing import Annotated

import typer

app = typer.Typer(
    name="backline",
    help="Backline: background work for product teams, on Apache Airflow.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
PASS_THROUGH = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
"""For commands that hand all their arguments on."""


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"backline on Airflow {importlib.metadata.version('apache-airflow-core')}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show it and stop.")
    ] = False,
) -> None:
    """Backline: background work for product teams, on Apache Airflow."""
