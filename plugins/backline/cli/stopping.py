"""Long commands that have started things: told to stop, they end those first."""

from __future__ import annotations

import signal
import sys
from types import FrameType
from typing import NoReturn

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def exit_on_signal() -> None:
    """From here on each of the signals leaves through every `with`, so that what was started is ended."""
    for number in SIGNALS:
        signal.signal(number, _handle_signal)


def _handle_signal(number: int, _frame: FrameType | None) -> NoReturn:
    for each in SIGNALS:  # a second one does not disturb that
        signal.signal(each, signal.SIG_IGN)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)
