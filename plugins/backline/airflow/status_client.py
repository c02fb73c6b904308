"""Airflow's REST API as its operators use it: how it is, its DAGs, what still runs."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import datetime
from typing import Any
from urllib.parse import urlencode

from backline.errors import NetworkFailure

# No proxy: this is loopback or the containers' own network, whatever HTTP_PROXY says.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class AirflowStatusClient:
    """The few calls of Airflow's REST API that the stack needs; every failure is a NetworkFailure."""

    def __init__(self, url: str, user: str, password: str) -> None:
        """`url` is Airflow's base URL. The login holds for a day: make another one for the next."""
        self._base_url = url.rstrip("/")
        self._credentials = {"username": user, "password": password}
        self._token: str | None = None

    def health(self) -> dict[str, dict[str, Any]]:
        """The answer of /api/v2/monitor/health."""
        answer: dict[str, dict[str, Any]] = self._request("/api/v2/monitor/health")
        return answer

    def dags(self) -> Iterator[dict[str, Any]]:
        """All DAGs, page by page."""
        return self._paginate("/api/v2/dags", "dags")

    def import_errors(self) -> list[dict[str, Any]]:
        """All import errors of DAG files."""
        return list(self._paginate("/api/v2/importErrors", "import_errors"))

    def dags_with_unfinished_runs(self, started_before: datetime) -> set[str]:
        """DAGs with a run that began before then and still waits, for an approval for example."""
        query = urlencode({"start_date_lte": started_before.isoformat()})
        paths = (f"/api/v2/dags/~/dagRuns?state={state}&{query}" for state in ("queued", "running"))
        return {run["dag_id"] for path in paths for run in self._paginate(path, "dag_runs")}

    def _paginate(self, path: str, key: str) -> Iterator[dict[str, Any]]:
        offset = 0
        joined = "&" if "?" in path else "?"
        while True:
            answer = self._request(f"{path}{joined}limit=100&offset={offset}", token=self._access_token())
            yield from answer[key]
            offset += 100
            if offset >= answer["total_entries"]:
                return

    def _access_token(self) -> str:
        if self._token is None:
            body = json.dumps(self._credentials).encode()
            self._token = str(self._request("/auth/token", body=body)["access_token"])
        return self._token

    def _request(self, path: str, *, body: bytes | None = None, token: str | None = None) -> Any:
        headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {token}"} if token else {})
        request = urllib.request.Request(self._base_url + path, data=body, headers=headers)  # noqa: S310 - http, ours
        try:
            with _OPENER.open(request, timeout=10) as response:
                return json.load(response)
        except (OSError, ValueError) as exc:
            raise NetworkFailure(f"{path.partition('?')[0]}: {_error_message(exc)}") from exc


def _error_message(exc: OSError | ValueError) -> str:
    if isinstance(exc, urllib.error.HTTPError):
        return f"HTTP {exc.code}"
    if isinstance(exc, urllib.error.URLError):
        return str(exc.reason)
    return str(exc) or type(exc).__name__
