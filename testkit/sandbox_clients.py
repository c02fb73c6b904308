"""Clients of the sandbox's JSON APIs: received mail and gateway messages, and fault rules."""

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
    """One caught message. `arrived_at` is in seconds since 1970."""

    id: int
    arrived_at: float
    recipients: tuple[str, ...]
    subject: str


@dataclass(frozen=True, slots=True)
class ReceivedEmail:
    """One caught message with its parts; a missing part is empty."""

    recipients: tuple[str, ...]
    subject: str
    text: str
    html: str


class _SandboxClient:
    """A client of BACKLINE_MAIL_URL; every failure is a NetworkFailure."""

    def __init__(self, url: str) -> None:
        self._client = httpx.Client(base_url=url, timeout=REQUEST_TIMEOUT_SECONDS, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def _request(self, method: str, path: str, query: dict[str, Any] | None = None, body: Any = None) -> Any:
        try:
            response = self._client.request(method, path, params=query, json=body)
            response.raise_for_status()
            return response.json()
        except (httpx.HTTPError, ValueError) as exc:
            url = self._client.base_url  # without its login
            reason = str(exc).replace(url.userinfo.decode() + "@", "") if url.userinfo else str(exc)
            raise NetworkFailure(f"sandbox on port {url.port}: {reason or type(exc).__name__}") from None


class MailCatcherClient(_SandboxClient):
    """Reads caught mail and sets the mail server's fault rules."""

    def count(self, to: str = "", since: float = 0.0) -> int:
        """How many messages arrived for recipients that match `to` (a glob) since a time (seconds since 1970)."""
        return int(self._request("GET", "/api/count", {"to": to, "since": since})["count"])

    def list_emails(self, to: str = "", since: float = 0.0) -> Iterator[EmailSummary]:
        """The messages that `count` counts, newest first."""
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
        """One message with its parts."""
        found = self._request("GET", f"/api/messages/{message_id}")
        return ReceivedEmail(tuple(found["to"]), found["subject"], found["text"] or "", found["html"] or "")

    def set_faults(self, *rules: dict[str, Any]) -> None:
        """Replace all fault rules; none means no faults."""
        self._request("PUT", "/faults", body=list(rules))


class GatewayClient(_SandboxClient):
    """Reads what the gateways `sms`, `push` and `stripe` received and sets their fault rules, and those of `webhooks`."""

    def received(self, gateway: str, to: str, since: float = 0.0) -> list[dict[str, Any]]:
        """Messages to recipients that match `to` (a glob) since a time (seconds since 1970), oldest first."""
        found = self._request("GET", f"/{gateway}/api/messages", {"to": to, "since": since, "limit": 1000})
        return list(found["messages"])[::-1]

    def count(self, gateway: str, to: str) -> int:
        """How many messages arrived for recipients that match `to` (a glob)."""
        return int(self._request("GET", f"/{gateway}/api/count", {"to": to})["count"])

    def count_webhooks(self, name: str) -> int:
        """How many webhook requests arrived at endpoints whose name matches (a glob)."""
        found, since = 0, 0
        while True:
            query = {"name": name, "since": since, "limit": PAGE_SIZE}
            page = self._request("GET", "/webhooks/api/requests", query)["requests"]
            found += len(page)
            if len(page) < PAGE_SIZE:
                return found
            since = page[-1]["id"]

    def set_faults(self, gateway: str, *rules: dict[str, Any]) -> None:
        """Replace all fault rules of a gateway; none means no faults."""
        self._request("PUT", f"/{gateway}/faults", body=list(rules))
