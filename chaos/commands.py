"""The `chaos` command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from backline.cli.console import app, err, print_progress
from backline.errors import Misconfigured


@app.command()
def chaos(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Which scenarios; all if none is given.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the results to this file.")] = None,
    short: Annotated[bool, typer.Option("--short", help="Small sizes and fewer faults.")] = False,
    channels: Annotated[
        list[str] | None, typer.Option("--channel", help="Only this channel, in scenarios of several; repeatable.")
    ] = None,
    times: Annotated[int, typer.Option(min=1, max=100, help="How often each runs in a row, on one stack.")] = 1,
) -> None:
    """Inject faults under load and count the messages; each ends with `chaos NAME: accepted=.. lost=..`."""
    from chaos.harness import PORT_OFFSET, run
    from stack.paths import MAX_BASE_PORT, Paths
    from testkit.processes import exit_on_signal

    paths = Paths.from_environment()
    if paths.port + PORT_OFFSET > MAX_BASE_PORT:
        raise Misconfigured(f"BACKLINE_PORT={paths.port} is too high: chaos uses the ports from {PORT_OFFSET} above it")
    exit_on_signal()
    problems = run(
        paths.home, paths.port, names or [], json_file, print_progress, typer.echo, short=short, times=times,
        channels=channels or (),
    )  # fmt: skip
    for text in problems:
        err.print(f"backline: {text}", markup=False)
    raise typer.Exit(1 if problems else 0)
