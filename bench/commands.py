"""The `bench` command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from backline.cli.console import app, print_progress
from backline.errors import Misconfigured


@app.command()
def bench(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Which benches; all if none is given.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all measurements to this file.")] = None,
    short: Annotated[bool, typer.Option("--short", help="Small sizes: to test the bench, not to measure.")] = False,
) -> None:
    """Measure Backline and its peers; the last line of each bench is `bench NAME: key=value ...`."""
    from bench.harness import PORT_OFFSET, BenchRun, run
    from stack.paths import MAX_BASE_PORT, Paths
    from testkit.processes import exit_on_signal

    paths = Paths.from_environment()
    if paths.port + PORT_OFFSET > MAX_BASE_PORT:
        raise Misconfigured(f"BACKLINE_PORT={paths.port} is too high: bench uses the ports from {PORT_OFFSET} above it")
    exit_on_signal()
    with BenchRun(paths.home, paths.port, print_progress, short=short) as current:
        run(current, names or [], json_file, typer.echo)
