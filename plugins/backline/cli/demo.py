"""The `demo` command."""

from __future__ import annotations

from typing import Annotated

import typer

from backline.cli.console import app


@app.command()
def demo(
    stop: Annotated[bool, typer.Option("--stop", help="Stop everything when it is done.")] = False,
) -> None:
    """Set up, start, do real work through Airflow's REST API, and show what happened."""
    from demo import run

    raise typer.Exit(run(stop))
