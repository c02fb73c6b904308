"""The mail catcher as its user sees it: what arrived, and the fault switches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx

from backline.errors import NetworkFailure

PAGE_SIZE = 1000
REQUEST_TIMEOUT_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class EmailSummary:
    """One caught message. `at` is in seconds since 1970."""

    id: int
    arrived_at: float
    recipients: tuple[str, ...]
    subject: str


@dataclass(frozen=True, slots=True)
class ReceivedEmail:
    """One caught message, opened."""

    recipients: tuple[str, ...]
    subject: str
    text: str
    html: str


class MailCatcherClient:
    """A client of the catcher's JSON API; every failure is a NetworkFailure."""

    def __init__(self, url: str) -> None:
        """`url` is the page's address, BACKLINE_MAIL_URL."""
        self._client = httpx.Client(base_url=url, timeout=REQUEST_TIMEOUT_SECONDS, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def count(self, to: str = "", since: float = 0.0) -> int:
        """How many arrived for recipients that match `to` (a glob), since a moment (seconds since 1970)."""
        return int(self._request("GET", "/api/count", {"to": to, "since": since})["count"])

    def list_emails(self, to: str = "", since: float = 0.0) -> Iterator[EmailSummary]:
        """They themselves, newest first."""
        before = 2**53
        while True:
            query = {"to": to, "since": since, "limit": PAGE_SIZE, "before": before}
            page = self._request("GET", "/api/messages", query)["messages"]
            for item in page:
                yield EmailSummary(item["id"], item["arrived_at"], tuple(item["to"]), item["subject"])
            if len(page) < PAGE_SIZE:
                return
            before = page[-1]["id"]

    def get_email(self, message_id: int) -> ReceivedEmail:
        """One message with its parts; a part that is not there is empty."""
        found = self._request("GET", f"/api/messages/{message_id}")
        return ReceivedEmail(tuple(found["to"]), found["subject"], found["text"] or "", found["html"] or "")

    def set_faults(self, *rules: dict[str, Any]) -> None:
        """Put these fault rules in the place of all others; none: a mail server that is well."""
        self._request("PUT", "/faults", body=list(rules))

    def _request(self, method: str, path: str, query: dict[str, Any] | None = None, body: Any = None) -> Any:
        try:
            answer = self._client.request(method, path, params=query, json=body)
            answer.raise_for_status()
            return answer.json()
        except (httpx.HTTPError, ValueError) as exc:
            raise NetworkFailure(f"mail catcher at {self._client.base_url}: {exc or type(exc).__name__}") from exc
