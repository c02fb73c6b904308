"""A small client of Airflow's public REST API (v2): start runs, wait for them, read what they left.

Imports no Airflow: it speaks to it from outside, as any program would.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from backline.errors import (
    AuthenticationFailed,
    BacklineError,
    NetworkFailure,
    RateLimited,
    Rejected,
    TimeoutFailure,
    UnknownFailure,
)

FINAL_STATES = frozenset({"success", "failed"})
"""States in which a run has ended."""
POLL_INTERVAL_SECONDS = 0.2
REQUEST_TIMEOUT_SECONDS = 30.0
PAGE_SIZE = 100
MAX_RESPONSE_LENGTH = 4096
"""How much of an answer an error carries, in characters."""

Json = dict[str, Any]


class AirflowRest:
    """Airflow's REST API as one user. A context manager; not for several threads at once.

    Every call raises AuthenticationFailed (401, 403), Rejected (other 4xx; `code` is the status, `response` what was
    said), RateLimited (429), NetworkFailure, TimeoutFailure or UnknownFailure (5xx).
    """

    def __init__(self, url: str, user: str, password: str) -> None:
        """`url` is Airflow's base URL, BACKLINE_URL for the embedded stack."""
        self._user, self._password = user, password
        # No proxy from the environment: it may not know this host's loopback.
        self._client = httpx.Client(base_url=url.rstrip("/"), timeout=REQUEST_TIMEOUT_SECONDS, trust_env=False)
        self._token: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    # --- DAGs and runs ------------------------------------------------------------------------------

    def dags(self) -> Iterator[Json]:
        """All DAGs, page by page."""
        return self.pages("/api/v2/dags", "dags")

    def trigger(self, dag_id: str, conf: Mapping[str, Any], run_id: str | None = None, note: str | None = None) -> Json:
        """Start a run; returns it. Rejected with code "409" if the run id was used, "400" if Params refuse the conf."""
        # A logical date is not ours to give, but the key is required.
        body: Json = {"conf": dict(conf), "logical_date": None}
        if note is not None:
            body["note"] = note
        if run_id is not None:
            body["dag_run_id"] = run_id
        started: Json = self._call("POST", f"/api/v2/dags/{quote(dag_id)}/dagRuns", body=body).json()
        return started

    def run(self, dag_id: str, run_id: str) -> Json:
        """One run as it is now."""
        found: Json = self._call("GET", _run_path(dag_id, run_id)).json()
        return found

    def runs(self, dag_id: str, **filters: str | int) -> list[Json]:
        """A DAG's latest runs, newest first; `filters` as in the API (`state="running"`, `limit=10`)."""
        params = {"order_by": "-run_after", "limit": PAGE_SIZE, **filters}
        found: list[Json] = self._call("GET", f"/api/v2/dags/{quote(dag_id)}/dagRuns", params=params).json()["dag_runs"]
        return found

    def wait(self, dag_id: str, run_id: str, timeout: float) -> Json:
        """The run once it has ended; TimeoutFailure after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while True:
            found = self.run(dag_id, run_id)
            if found["state"] in FINAL_STATES:
                return found
            if time.monotonic() > deadline:
                raise TimeoutFailure(f"{dag_id}/{run_id} is still {found['state']} after {timeout:.0f} s")
            time.sleep(POLL_INTERVAL_SECONDS)

    def set_run_state(self, dag_id: str, run_id: str, state: str) -> None:
        """Set a run's state by hand: "failed" or "success" ends what still runs."""
        self._call("PATCH", _run_path(dag_id, run_id), body={"state": state})

    def clear(self, dag_id: str, run_id: str) -> None:
        """Clear all tasks of a run, so that they run again."""
        self._call("POST", f"{_run_path(dag_id, run_id)}/clear", body={"dry_run": False, "only_failed": False})

    # --- tasks --------------------------------------------------------------------------------------

    def task(self, dag_id: str, run_id: str, task_id: str) -> Json:
        """One task instance as it is now."""
        found: Json = self._call("GET", _task_path(dag_id, run_id, task_id)).json()
        return found

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value") -> Any:
        """What a task returned, or another XCom of it; None if it has none."""
        try:
            path = f"{_task_path(dag_id, run_id, task_id)}/xcomEntries/{quote(key)}"
            return self._call("GET", path, params={"deserialize": True}).json()["value"]
        except Rejected as exc:
            if exc.code == "404":
                return None
            raise

    def log(self, dag_id: str, run_id: str, task_id: str, try_number: int = 1) -> str:
        """The log of one try, a line an event, with the fields that stand beside it."""
        path = f"{_task_path(dag_id, run_id, task_id)}/logs/{try_number}"
        answer = self._call("GET", path, params={"full_content": True}).json()
        return "\n".join(_format_log_event(event) for event in answer["content"])

    # --- anything else ------------------------------------------------------------------------------

    def get(self, path: str, **params: Any) -> Json:
        """What a path answers."""
        answer: Json = self._call("GET", path, params=params).json()
        return answer

    def post(self, path: str, body: Any) -> tuple[int, Json]:
        """What a path answers to a JSON body: status and content."""
        answer = self._call("POST", path, body=body)
        content: Json = answer.json()
        return int(answer.status_code), content

    def put(self, path: str) -> None:
        """Ask a path to do what it does."""
        self._call("PUT", path)

    def pages(self, path: str, key: str, **params: Any) -> Iterator[Json]:
        """All entries of a list, page by page; `key` is where the answer has them."""
        offset = 0
        while True:
            answer = self.get(path, **{"limit": PAGE_SIZE, **params, "offset": offset})
            yield from answer[key]
            offset += PAGE_SIZE
            if offset >= answer["total_entries"]:
                return

    # --- the wire -----------------------------------------------------------------------------------

    def _call(self, method: str, path: str, *, params: Mapping[str, Any] | None = None, body: Any = None) -> Any:
        if self._token is None:
            self._token = self._login()
        answer = self._send(method, path, params, body)
        if answer.status_code == httpx.codes.UNAUTHORIZED:  # a token lives for a day
            self._token = self._login()
            answer = self._send(method, path, params, body)
        _raise_for_status(answer, path)
        return answer

    def _login(self) -> str:
        answer = self._send("POST", "/auth/token", None, {"username": self._user, "password": self._password})
        _raise_for_status(answer, "/auth/token")
        return str(answer.json()["access_token"])

    def _send(self, method: str, path: str, params: Mapping[str, Any] | None, body: Any) -> httpx.Response:
        headers = {"Accept": "application/json"} | ({"Authorization": f"Bearer {self._token}"} if self._token else {})
        try:
            return self._client.request(method, path, params=params, json=body, headers=headers)
        except httpx.TimeoutException as exc:
            raise TimeoutFailure(
                f"Airflow did not answer {method} {path} within {REQUEST_TIMEOUT_SECONDS:.0f} s"
            ) from exc
        except httpx.HTTPError as exc:
            raise NetworkFailure(f"Airflow at {self._client.base_url}: {exc or type(exc).__name__}") from exc


def _run_path(dag_id: str, run_id: str) -> str:
    return f"/api/v2/dags/{quote(dag_id)}/dagRuns/{quote(run_id, safe='')}"


def _task_path(dag_id: str, run_id: str, task_id: str) -> str:
    return f"{_run_path(dag_id, run_id)}/taskInstances/{quote(task_id)}"


def _raise_for_status(answer: httpx.Response, path: str) -> None:
    if answer.is_success:
        return
    status, said = str(answer.status_code), answer.text[:MAX_RESPONSE_LENGTH]
    kind: type[BacklineError] = Rejected
    if answer.status_code in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        kind = AuthenticationFailed
    elif answer.status_code == httpx.codes.TOO_MANY_REQUESTS:
        kind = RateLimited
    elif answer.is_server_error:
        kind = UnknownFailure
    raise kind(f"Airflow refused {path}: {status} {_detail(answer)}", code=status, response=said)


def _detail(answer: httpx.Response) -> str:
    try:
        detail = answer.json()["detail"]
    except (ValueError, KeyError, TypeError):
        return answer.text[:200]
    return str(detail)[:500]


def _format_log_event(event: Any) -> str:
    if isinstance(event, str):
        return event
    beside = (f"{key}={value}" for key, value in event.items() if key not in ("event", "timestamp", "level", "logger"))
    return " ".join([str(event.get("event", "")), *beside])
