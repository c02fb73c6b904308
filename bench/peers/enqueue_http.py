"""One producer over HTTP: `python -m bench.peers.enqueue_http COUNT [BATCH]` prints the seconds that so many letters took.

BENCH_HTTP_URL is Airflow's base URL, BENCH_HTTP_TOKEN a token of an op.
"""

from __future__ import annotations

import json
import os
import sys
import time

import httpx

from bench.peers.letters import context, recipient
from bench.stack_copy import TEMPLATE

BATCH = 1_000
"""As many as one request takes."""
PATH = "/backline/api/v1/messages"


def main(count: int, batch: int = BATCH) -> None:
    """Connect first, then count the time: it is one stream of requests over one connection."""
    letters = [
        {
            "type": "templated_email",
            "to": recipient(number),
            "payload": {"template": TEMPLATE, "context": context(number)},
        }
        for number in range(count)
    ]
    headers = {
        "Authorization": f"Bearer {os.environ['BENCH_HTTP_TOKEN']}",
        "Content-Type": "application/json",
        "Accept-Encoding": "identity",
    }
    with httpx.Client(base_url=os.environ["BENCH_HTTP_URL"], headers=headers, timeout=60, trust_env=False) as client:
        client.get(PATH, params={"limit": 1}).raise_for_status()
        started = time.perf_counter()
        for start in range(0, count, batch):
            # Building the JSON is the producer's work, as pickling is Celery's.
            client.post(PATH, content=json.dumps(letters[start : start + batch])).raise_for_status()
        print(time.perf_counter() - started)


if __name__ == "__main__":
    main(*(int(argument) for argument in sys.argv[1:]))
