"""The `bench` command."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer

from backline.cli.app import app
from backline.cli.console import progress
from backline.errors import Misconfigured
from backline.stack.paths import HIGHEST_PORT, Paths

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@app.command()
def bench(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="Which ones; all if none is given.")
    ] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write everything measured to this file.")] = None,
    short: Annotated[bool, typer.Option("--short", help="Small sizes: to see that it works, not how fast.")] = False,
) -> None:
    """Measure Backline beside its peers; the last line of each bench is `bench NAME: key=value ...`."""
    from bench.harness import PORT_OFFSET, Bench, run

    paths = Paths.from_environment()
    if paths.port + PORT_OFFSET > HIGHEST_PORT:
        raise Misconfigured(f"BACKLINE_PORT={paths.port} is too high: bench uses the ports from {PORT_OFFSET} above it")
    for number in STOPPING:
        signal.signal(number, _stop)
    with Bench(paths.home, paths.port, progress, short=short) as current:
        run(current, names or [], json_file, typer.echo)


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    """Leave through every `with`, so that what was started is ended; a second signal does not disturb that."""
    for each in STOPPING:
        signal.signal(each, signal.SIG_IGN)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)
