"""The client of Airflow's public REST API (v2). It needs no Airflow: commands, the embedded stack and tests use it too."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Self, TypedDict, cast
from urllib.parse import quote

import httpx

from backline.errors import (
    AuthenticationFailed,
    BacklineError,
    InvalidInput,
    NetworkFailure,
    RateLimited,
    Rejected,
    TimeoutFailure,
    UnknownFailure,
)

FINAL_STATES = frozenset({"success", "failed"})
"""States of a run that has ended."""
ALL = "~"
"""As a DAG id or run id: all of them."""
ALL_RUNS_PATH = "/api/v2/dags/~/dagRuns"
POLL_INTERVAL_SECONDS = 0.2
PAGE_SIZE = 100
MAX_RESPONSE_BYTES = 32 * 1024 * 1024
MAX_ERROR_LENGTH = 4096
"""Characters of a response that an error keeps."""
INITIAL_RETRY_DELAY_SECONDS = 0.25
MAX_RETRY_DELAY_SECONDS = 5.0
UNAVAILABLE_STATUSES = frozenset({"502", "503", "504"})

Json = dict[str, Any]
Health = dict[str, dict[str, Any]]


class Run(TypedDict):
    """A DAG run; times are ISO 8601."""

    dag_id: str
    dag_run_id: str
    state: str
    run_type: str
    conf: Json | None
    note: str | None
    start_date: str | None
    end_date: str | None


class TaskInstance(TypedDict):
    """A task of a run; `pid` is that of its process while it runs."""

    id: str
    dag_id: str
    dag_run_id: str
    task_id: str
    map_index: int
    try_number: int
    state: str | None
    queue: str | None
    pid: int | None
    end_date: str | None


class Dag(TypedDict):
    """A DAG."""

    dag_id: str
    bundle_name: str | None
    relative_fileloc: str
    file_token: str
    last_parsed_time: str | None


class DagImportError(TypedDict):
    """A DAG file that cannot be imported."""

    bundle_name: str | None
    filename: str
    stack_trace: str
    timestamp: str | None


class AirflowClient:
    """Airflow's REST API as one user. A context manager; threads may share it.

    An expired token is renewed. A request is repeated if it could not connect or was rate-limited, and, unless it is a
    POST, if its connection broke or it got 502, 503 or 504.

    Every call may raise AuthenticationFailed (401, 403), Rejected (other 4xx, or a response over `MAX_RESPONSE_BYTES`;
    `code` is the status, `response` the text), RateLimited (429), NetworkFailure, TimeoutFailure, or UnknownFailure
    (5xx, or a response that is not JSON).
    """

    def __init__(self, url: str, user: str, password: str, *, timeout: float = 30.0, retries: int = 2) -> None:
        """`url` is Airflow's base URL (BACKLINE_URL), `timeout` in seconds is that of one request."""
        self._credentials = {"username": user, "password": password}
        self._timeout, self._retries = timeout, retries
        # The environment's proxy may not know this host's loopback or the containers' network.
        self._http = httpx.Client(base_url=url.rstrip("/"), timeout=timeout, trust_env=False)
        self._token: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    # --- DAGs and runs ------------------------------------------------------------------------------

    def health(self) -> Health:
        """State of Airflow's components, by name; needs no login."""
        return cast("Health", self._request("GET", "/api/v2/monitor/health", login=False)[1])

    def dags(self, **filters: Any) -> Iterator[Dag]:
        """All DAGs that match the API's filters."""
        return cast("Iterator[Dag]", self.pages("/api/v2/dags", "dags", **filters))

    def dag_params(self, dag_id: str) -> Json:
        """A DAG's Params by name."""
        return self.get(f"/api/v2/dags/{quote(dag_id)}/details")["params"] or {}

    def import_errors(self) -> list[DagImportError]:
        """All DAG files that cannot be imported now."""
        return cast("list[DagImportError]", list(self.pages("/api/v2/importErrors", "import_errors")))

    def trigger(
        self, dag_id: str, conf: Mapping[str, object], run_id: str | None = None, note: str | None = None
    ) -> Run:
        """Start a run and return it. Rejected with code "409" if the run id exists, "400" if Params refuse the conf."""
        # The API requires the key logical_date; null lets Airflow choose.
        optional = {"dag_run_id": run_id, "note": note}
        body = {"conf": dict(conf), "logical_date": None} | {key: value for key, value in optional.items() if value}
        return cast("Run", self.post(f"/api/v2/dags/{quote(dag_id)}/dagRuns", body)[1])

    def run(self, dag_id: str, run_id: str) -> Run:
        """One run."""
        return cast("Run", self.get(run_path(dag_id, run_id)))

    def iterate_runs(self, dag_id: str = ALL, **filters: Any) -> Iterator[Run]:
        """All runs that match the API's filters."""
        return cast("Iterator[Run]", self.pages(f"/api/v2/dags/{quote(dag_id)}/dagRuns", "dag_runs", **filters))

    def dags_with_unfinished_runs(self, started_before: datetime) -> set[str]:
        """DAGs with a run that started before then and has not ended: it waits for an approval, for example."""
        unfinished = ({"state": state, "start_date_lte": started_before.isoformat()} for state in ("queued", "running"))
        return {run["dag_id"] for filters in unfinished for run in self.iterate_runs(**filters)}

    def wait(self, dag_id: str, run_id: str, timeout: float) -> Run:
        """The run once it has ended; TimeoutFailure after `timeout` seconds."""
        deadline = time.monotonic() + timeout
        while True:
            found = self.run(dag_id, run_id)
            if found["state"] in FINAL_STATES:
                return found
            if time.monotonic() > deadline:
                raise TimeoutFailure(f"{dag_id}/{run_id} is still {found['state']} after {timeout:.0f} s")
            time.sleep(POLL_INTERVAL_SECONDS)

    # --- tasks --------------------------------------------------------------------------------------

    def iterate_tasks(self, dag_id: str = ALL, run_id: str = ALL, **filters: Any) -> Iterator[TaskInstance]:
        """All task instances that match the API's filters."""
        path = f"{run_path(dag_id, run_id)}/taskInstances"
        return cast("Iterator[TaskInstance]", self.pages(path, "task_instances", **filters))

    def log_events(self, dag_id: str, run_id: str, task_id: str, try_number: int, map_index: int = -1) -> list[Json]:
        """The events of one try's log, oldest first; each has its text as `event`."""
        path = f"{task_path(dag_id, run_id, task_id)}/logs/{try_number}"
        content = self.get(path, full_content=True, map_index=map_index)["content"]
        return [event if isinstance(event, dict) else {"event": str(event)} for event in content]

    # --- any path -----------------------------------------------------------------------------------

    def get(self, path: str, **params: Any) -> Json:
        """The JSON object at a path."""
        return cast("Json", self._request("GET", path, params=params)[1])

    def post(self, path: str, body: Any) -> tuple[int, Json]:
        """Status and JSON object of the response to a JSON body."""
        return self._request("POST", path, body=body)

    def put(self, path: str) -> None:
        """PUT without a body."""
        self._request("PUT", path)

    def pages(self, path: str, key: str, **params: Any) -> Iterator[Json]:
        """All entries of a list, page by page; `key` names the list in the response."""
        offset = 0
        while True:
            page = self.get(path, **{"limit": PAGE_SIZE, **params, "offset": offset})
            yield from page[key]
            offset += PAGE_SIZE
            if offset >= page["total_entries"]:
                return

    # --- HTTP ---------------------------------------------------------------------------------------

    def _request(
        self, method: str, path: str, *, params: Mapping[str, Any] | None = None, body: Any = None, login: bool = True
    ) -> tuple[int, Any]:
        if login and self._token is not None:
            try:
                return self._send_with_retries(method, path, params, body)
            except AuthenticationFailed as exc:
                if exc.code != "401":
                    raise
                self._token = None  # expired
        if login:
            _, answer = self._send_with_retries("POST", "/auth/token", None, self._credentials)
            self._token = str(answer["access_token"])
        return self._send_with_retries(method, path, params, body)

    def _send_with_retries(
        self, method: str, path: str, params: Mapping[str, Any] | None, body: Any
    ) -> tuple[int, Any]:
        for attempt in range(self._retries):
            try:
                return self._send(method, path, params, body)
            except (NetworkFailure, RateLimited, UnknownFailure) as exc:
                if not _is_safe_to_repeat(method, exc):
                    raise
                delay = exc.retry_after or INITIAL_RETRY_DELAY_SECONDS * 2**attempt
                time.sleep(min(delay, MAX_RETRY_DELAY_SECONDS))
        return self._send(method, path, params, body)

    def _send(self, method: str, path: str, params: Mapping[str, Any] | None, body: Any) -> tuple[int, Any]:
        headers = {"Accept": "application/json"} | ({"Authorization": f"Bearer {self._token}"} if self._token else {})
        content = bytearray()
        try:
            with self._http.stream(method, path, params=params, json=body, headers=headers) as response:
                for chunk in response.iter_bytes():
                    content += chunk
                    if len(content) > MAX_RESPONSE_BYTES:
                        raise Rejected(f"Airflow's response to {path} is over {MAX_RESPONSE_BYTES // 2**20} MiB")
        except httpx.TimeoutException as exc:
            raise TimeoutFailure(f"Airflow did not answer {method} {path} within {self._timeout:.0f} s") from exc
        except httpx.HTTPError as exc:
            reason = str(exc) or type(exc).__name__
            raise NetworkFailure(f"Airflow at {self._http.base_url}: {method} {path}: {reason}") from exc
        if not response.is_success:
            raise _status_error(response, path, content.decode(errors="replace"))
        try:
            return response.status_code, json.loads(content) if content else None
        except ValueError as exc:
            raise UnknownFailure(f"Airflow did not answer {method} {path} with JSON: {exc}") from exc


def run_path(dag_id: str, run_id: str) -> str:
    """The API's path of a run."""
    return f"/api/v2/dags/{quote(dag_id)}/dagRuns/{quote(run_id, safe='')}"


def task_path(dag_id: str, run_id: str, task_id: str) -> str:
    """The API's path of a task instance."""
    return f"{run_path(dag_id, run_id)}/taskInstances/{quote(task_id)}"


def log_url(url: str, dag_id: str, run_id: str, task_id: str = "", map_index: int = -1) -> str:
    """The page of a task instance, with its log, in the Airflow at `url`; of the run if no task id is given."""
    page = f"{url.rstrip('/')}/dags/{quote(dag_id)}/runs/{quote(run_id, safe='')}"
    if task_id:
        page += f"/tasks/{quote(task_id)}" + (f"/mapped/{map_index}" if map_index >= 0 else "")
    return page


def check_conf(dag_id: str, params: Mapping[str, object], conf: Mapping[str, object], field: str) -> None:
    """InvalidInput for a key of `conf` that is not among the DAG's Params; `field` is the option that holds the conf."""
    if unknown := sorted(set(conf) - set(params)):
        known = ", ".join(params) or "none"
        raise InvalidInput(f"{field}.{unknown[0]}", f"{dag_id} has no such parameter; it has: {known}")


def _is_safe_to_repeat(method: str, exc: BacklineError) -> bool:
    if isinstance(exc, RateLimited) or isinstance(exc.__cause__, httpx.ConnectError):
        return True
    return method != "POST" and (isinstance(exc, NetworkFailure) or exc.code in UNAVAILABLE_STATUSES)


def _status_error(response: httpx.Response, path: str, text: str) -> BacklineError:
    try:
        detail = str(json.loads(text)["detail"])[:500]
    except (ValueError, KeyError, TypeError):
        detail = text[:200]
    status = response.status_code
    message, code, kept = f"Airflow refused {path}: {status} {detail}", str(status), text[:MAX_ERROR_LENGTH]
    if status == httpx.codes.TOO_MANY_REQUESTS:
        seconds = response.headers.get("retry-after", "")
        retry_after = float(seconds) if seconds.isdecimal() else None
        return RateLimited(message, code=code, response=kept, retry_after=retry_after)
    if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        return AuthenticationFailed(message, code=code, response=kept)
    kind = UnknownFailure if response.is_server_error else Rejected
    return kind(message, code=code, response=kept)
