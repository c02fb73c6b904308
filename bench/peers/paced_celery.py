"""Sends emails through Celery at a constant rate: `python -m bench.peers.paced_celery FIRST COUNT PER_SECOND`.

Prints one line per email: its recipient, and the time before its `.delay` (CLOCK_MONOTONIC).
"""

# mypy: disable-error-code="import-not-found,import-untyped,untyped-decorator"
from __future__ import annotations

import sys
import time

from bench.peers.celery_app import send_optimized
from bench.peers.emails import recipient, template_context


def main(first: int, count: int, per_second: float) -> None:
    """Keep the rate, however long a `.delay` takes."""
    started = time.monotonic()
    for index in range(count):
        time.sleep(max(0.0, started + index / per_second - time.monotonic()))
        to, data = recipient(first + index), template_context(first + index)
        at = time.monotonic()
        send_optimized.delay(to, data)
        print(to, at, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
