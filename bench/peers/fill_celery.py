"""Fills Celery's queue with emails: `python -m bench.peers.fill_celery TASK FIRST COUNT`."""

# mypy: disable-error-code="import-not-found,import-untyped,untyped-decorator"
from __future__ import annotations

import sys

from bench.peers import celery_app
from bench.peers.emails import recipient, template_context


def main(task: str, first: int, count: int) -> None:
    """Call `.delay` for each email."""
    send = {"as_written": celery_app.send_simple, "at_its_best": celery_app.send_optimized}[task]
    for number in range(first, first + count):
        send.delay(recipient(number), template_context(number))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
