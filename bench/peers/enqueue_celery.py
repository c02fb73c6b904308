"""A Celery producer: `python -m bench.peers.enqueue_celery COUNT` prints the seconds for COUNT calls of `.delay`."""

from __future__ import annotations

import sys
import time

from bench.peers import celery_app
from bench.peers.emails import recipient, template_context


def main(count: int) -> None:
    """Connect first, then measure."""
    emails = [(recipient(number), template_context(number)) for number in range(count)]
    send = celery_app.send_optimized
    send.delay(*emails[0])
    started = time.perf_counter()
    for email in emails:
        send.delay(*email)
    print(time.perf_counter() - started)


if __name__ == "__main__":
    main(int(sys.argv[1]))
