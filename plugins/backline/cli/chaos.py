"""The `chaos` command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from backline.cli.app import app
from backline.cli.console import err, progress
from backline.cli.stopping import leave_when_told
from backline.errors import Misconfigured
from backline.stack.paths import HIGHEST_PORT, Paths


@app.command()
def chaos(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Which scenarios; all if none is given.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write what was counted to this file.")] = None,
    short: Annotated[bool, typer.Option("--short", help="Small sizes and fewer faults.")] = False,
    times: Annotated[int, typer.Option(min=1, max=100, help="How often each is run in a row, on one stack.")] = 1,
) -> None:
    """Break things under load, and count what came: the last line of each is `chaos NAME: accepted=.. lost=..`."""
    from chaos.harness import PORT_OFFSET, run

    paths = Paths.from_environment()
    if paths.port + PORT_OFFSET > HIGHEST_PORT:
        raise Misconfigured(f"BACKLINE_PORT={paths.port} is too high: chaos uses the ports from {PORT_OFFSET} above it")
    leave_when_told()
    wrong = run(paths.home, paths.port, names or [], json_file, progress, typer.echo, short=short, times=times)
    for text in wrong:
        err.print(f"backline: {text}", markup=False)
    raise typer.Exit(1 if wrong else 0)
