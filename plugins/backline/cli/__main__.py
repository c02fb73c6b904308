"""Runs the command. A failure is one line with the fix, not a traceback."""

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
    # Processes that a command starts do not belong to the stack, even if one of its tasks runs the command.
    os.environ.pop(STACK_ID_VARIABLE, None)
    from backline.cli import (  # noqa: F401 - they register their commands
        bench,
        chaos,
        checks,
        database,
        dead_letters,
        demo,
        messages,
        preview,
        seed,
        stack,
        suppressions,
        trigger,
        webhooks,
    )
    from backline.cli.console import app

    # Standalone mode would print errors as boxes of several lines.
    return int(app(sys.argv[1:] or ["--help"], prog_name="backline", standalone_mode=False) or 0)


def _print_error(text: str, code: int = 1) -> int:
    print(f"backline: {text}", file=sys.stderr)  # noqa: T201
    return code


def run() -> int:
    """Run the command; a failure is one line on stderr."""
    try:
        return main()
    except BacklineError as exc:
        return _print_error(" ".join(str(exc).split()))
    except TyperException as exc:
        return _print_error(f"{exc.format_message()} See ./backline --help", exc.exit_code)
    except (KeyboardInterrupt, Abort):
        return _print_error("interrupted", 130)
    except BrokenPipeError:
        # The reader of the output, such as `head`, has closed it.
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
