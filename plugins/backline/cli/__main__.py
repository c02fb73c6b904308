"""Runs the command; every failure is one line that names the fix, never a traceback."""

from __future__ import annotations

import importlib
import importlib.util
import os
import pkgutil
import sys

from typer import Abort, TyperException

from backline.errors import BacklineError

PROJECT_PACKAGES = ("stack", "demo", "bench", "chaos", "testkit")
"""Top-level folders of the project whose module `commands` adds commands; the image has none of them."""


def load_commands() -> None:
    """Import every module that adds commands: those of the project's folders, then those of backline.cli."""
    import backline.cli

    for package in PROJECT_PACKAGES:
        if importlib.util.find_spec(package) is not None:
            importlib.import_module(f"{package}.commands")
    for module in pkgutil.iter_modules(backline.cli.__path__, "backline.cli."):
        importlib.import_module(module.name)


def main() -> int:
    """Run the command of `sys.argv`; returns its exit code."""
    from backline.environment import STACK_ID_VARIABLE, load_dotenv
    from backline.settings import ROOT

    load_dotenv(ROOT)
    # Processes that a command starts do not belong to the stack, even if one of its tasks runs the command.
    os.environ.pop(STACK_ID_VARIABLE, None)
    load_commands()
    from backline.cli.console import app

    # Not standalone: typer's own error boxes have several lines.
    return int(app(sys.argv[1:] or ["--help"], prog_name="backline", standalone_mode=False) or 0)


def _print_error(text: str, code: int = 1) -> int:
    print(f"backline: {text}", file=sys.stderr)  # noqa: T201
    return code


def run() -> int:
    """Run `main`, with failures as one line on stderr."""
    try:
        return main()
    except BacklineError as exc:
        return _print_error(" ".join(str(exc).split()))
    except TyperException as exc:
        return _print_error(f"{exc.format_message()} See ./backline --help", exc.exit_code)
    except (KeyboardInterrupt, Abort):
        return _print_error("interrupted", 130)
    except BrokenPipeError:
        # The reader, such as `head`, has closed the pipe.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as exc:
        if os.environ.get("BACKLINE_DEBUG"):
            raise
        text = " ".join(str(exc).split())
        return _print_error(f"unexpected {type(exc).__name__}: {text} (BACKLINE_DEBUG=1 shows the traceback)")


if __name__ == "__main__":
    sys.exit(run())
