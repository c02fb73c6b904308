"""Whether one of Airflow's components is well: `python -m backline.airflow.health_probe NAME`, a container's health check.

It runs every few seconds in every container, so it imports next to nothing.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.request

HEALTH_KEYS = {"api-server": "metadatabase", "scheduler": "scheduler", "dag_processor": "dag_processor", "triggerer": "triggerer"}  # fmt: skip
"""Name → its part of Airflow's health answer; the API server is well if it can ask its database."""
REQUEST_TIMEOUT_SECONDS = 8.0


def find_problem(name: str, url: str) -> str | None:
    """What is wrong with the component, as the API server at `url` sees it; None if it is well."""
    if name not in HEALTH_KEYS:
        return f"no component {name!r}; use one of {', '.join(HEALTH_KEYS)}"
    # No proxy: this is the containers' own network.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url.rstrip('/')}/api/v2/monitor/health", timeout=REQUEST_TIMEOUT_SECONDS) as answer:
            status = json.load(answer).get(HEALTH_KEYS[name], {}).get("status")
    except (OSError, ValueError) as exc:
        return f"{url}: {exc}"
    return None if status == "healthy" else f"{name} is {status or 'unknown'}"


if __name__ == "__main__":
    sys.exit(find_problem(sys.argv[1] if len(sys.argv) == 2 else "", os.environ["BACKLINE_URL"]))
