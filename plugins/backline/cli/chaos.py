"""The `chaos` command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from backline.cli.console import app, err, print_progress
from backline.cli.stopping import exit_on_signal
from backline.errors import Misconfigured
from stack.paths import MAX_BASE_PORT, Paths


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
    if paths.port + PORT_OFFSET > MAX_BASE_PORT:
        raise Misconfigured(f"BACKLINE_PORT={paths.port} is too high: chaos uses the ports from {PORT_OFFSET} above it")
    exit_on_signal()
    wrong = run(paths.home, paths.port, names or [], json_file, print_progress, typer.echo, short=short, times=times)
    for text in wrong:
        err.print(f"backline: {text}", markup=False)
    raise typer.Exit(1 if wrong else 0)
