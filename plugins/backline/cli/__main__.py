"""Runs the command; every failure is one line that says the fix, never a traceback."""

from __future__ import annotations

import os
import sys

from typer import Abort, TyperException

from backline.errors import BacklineError


def main() -> int:
    """Run the command of `sys.argv`; returns its exit code."""
    from backline.settings import ROOT
    from stack.environment import load_dotenv
    from stack.processes import STACK_ID_VARIABLE

    load_dotenv(ROOT)
    os.environ.pop(
        STACK_ID_VARIABLE, None
    )  # what a command starts is not the stack's, even from inside one of its tasks
    from backline.cli import (  # noqa: F401 - they add their commands
        bench,
        chaos,
        checks,
        database,
        dead_letters,
        demo,
        failures,
        inspect,
        jobs,
        preview,
        seed,
        send,
        stack,
        suppressions,
        trigger,
        webhooks,
    )
    from backline.cli.app import app

    # Not standalone: its own error boxes are of several lines.
    return int(app(sys.argv[1:] or ["--help"], prog_name="backline", standalone_mode=False) or 0)


def _print_error(text: str, code: int = 1) -> int:
    print(f"backline: {text}", file=sys.stderr)  # noqa: T201
    return code


def run() -> int:
    """As `main`, with failures as one line on stderr."""
    try:
        return main()
    except BacklineError as exc:
        return _print_error(" ".join(str(exc).split()))
    except TyperException as exc:
        return _print_error(f"{exc.format_message()} See ./backline --help", exc.exit_code)
    except (KeyboardInterrupt, Abort):
        return _print_error("interrupted", 130)
    except BrokenPipeError:
        # The reader, `head` for example, has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as exc:
        if os.environ.get("BACKLINE_DEBUG"):
            raise
        return _print_error(
            f"unexpected {type(exc).__name__}: {' '.join(str(exc).split())} (BACKLINE_DEBUG=1 shows where)"
        )


if __name__ == "__main__":
    sys.exit(run())
