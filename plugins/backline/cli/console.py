"""How the command speaks: progress and errors on stderr, results on stdout."""

from __future__ import annotations

from rich.console import Console

from backline.stack.lifecycle import Stack

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def progress(line: str) -> None:
    """One step of something longer."""
    err.print(f"backline: {line}", style="dim", markup=False)


def stack() -> Stack:
    """The copy of the stack that BACKLINE_HOME and BACKLINE_PORT name."""
    return Stack(progress)
