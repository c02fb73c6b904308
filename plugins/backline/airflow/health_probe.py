"""Health check of a container: `python -m backline.airflow.health_probe NAME` fails unless that component is healthy.

It runs every few seconds in every container, so it imports only the standard library.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.request

HEALTH_KEYS = {"api-server": "metadatabase", "scheduler": "scheduler", "dag_processor": "dag_processor", "triggerer": "triggerer"}  # fmt: skip
"""Name → its key in Airflow's health response; the API server is healthy if it reaches its database."""
REQUEST_TIMEOUT_SECONDS = 8.0


def find_problem(name: str, url: str) -> str | None:
    """What is wrong with the component according to the API server at `url`; None if it is healthy."""
    if name not in HEALTH_KEYS:
        return f"no component {name!r}; use one of {', '.join(HEALTH_KEYS)}"
    # No proxy: this is the containers' own network.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url.rstrip('/')}/api/v2/monitor/health", timeout=REQUEST_TIMEOUT_SECONDS) as response:
            status = json.load(response).get(HEALTH_KEYS[name], {}).get("status")
    except (OSError, ValueError) as exc:
        return f"{url}: {exc}"
    return None if status == "healthy" else f"{name} is {status or 'unknown'}"


if __name__ == "__main__":
    sys.exit(find_problem(sys.argv[1] if len(sys.argv) == 2 else "", os.environ["BACKLINE_URL"]))
