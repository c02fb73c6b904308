"""Whether one of Airflow's components is well: `python -m backline.stack.probe NAME`, a container's health check.

It runs every few seconds in every container, so it imports next to nothing.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.request

PARTS = {"api-server": "metadatabase", "scheduler": "scheduler", "dag_processor": "dag_processor", "triggerer": "triggerer"}  # fmt: skip
"""Name → its part of Airflow's health answer; the API server is well if it can ask its database."""
ANSWER_SECONDS = 8.0


def trouble(name: str, url: str) -> str | None:
    """What is wrong with the component, as the API server at `url` sees it; None if it is well."""
    if name not in PARTS:
        return f"no component {name!r}; use one of {', '.join(PARTS)}"
    # No proxy: this is the containers' own network.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"{url.rstrip('/')}/api/v2/monitor/health", timeout=ANSWER_SECONDS) as answer:
            status = json.load(answer).get(PARTS[name], {}).get("status")
    except (OSError, ValueError) as exc:
        return f"{url}: {exc}"
    return None if status == "healthy" else f"{name} is {status or 'unknown'}"


if __name__ == "__main__":
    sys.exit(trouble(sys.argv[1] if len(sys.argv) == 2 else "", os.environ["BACKLINE_URL"]))
