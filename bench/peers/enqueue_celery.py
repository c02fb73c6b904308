"""One producer of Celery's: `python -m bench.peers.enqueue_celery COUNT` prints the seconds that so many `.delay` took."""

from __future__ import annotations

import sys
import time

from bench.peers import celery_app
from bench.peers.emails import recipient, template_context


def main(count: int) -> None:
    """Connect first, then count the time."""
    letters = [(recipient(number), template_context(number)) for number in range(count)]
    send = celery_app.send_optimized
    send.delay(*letters[0])
    started = time.perf_counter()
    for letter in letters:
        send.delay(*letter)
    print(time.perf_counter() - started)


if __name__ == "__main__":
    main(int(sys.argv[1]))
