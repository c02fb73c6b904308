"""The sandbox's SMS and push gateways as recipients see them: what came, and the fault switches."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self

import httpx

from backline.errors import NetworkFailure

REQUEST_TIMEOUT_SECONDS = 30.0


class GatewayClient:
    """A client of their JSON API; every failure is a NetworkFailure. Gateways are `sms` and `push`."""

    def __init__(self, url: str) -> None:
        """`url` is the mail catcher's page, beside which they are."""
        self._client = httpx.Client(base_url=url, timeout=REQUEST_TIMEOUT_SECONDS, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def received(self, gateway: str, to: str, since: float = 0.0) -> list[dict[str, Any]]:
        """What came for recipients that match `to` (a glob), since a moment (seconds since 1970); oldest first."""
        found = self._request("GET", f"/{gateway}/api/messages", {"to": to, "since": since, "limit": 1000})
        return list(found["messages"])[::-1]

    def set_faults(self, gateway: str, *rules: dict[str, Any]) -> None:
        """Put these fault rules in the place of all others; none: a gateway that is well."""
        self._request("PUT", f"/{gateway}/faults", body=list(rules))

    def _request(self, method: str, path: str, query: dict[str, Any] | None = None, body: Any = None) -> Any:
        try:
            answer = self._client.request(method, path, params=query, json=body)
            answer.raise_for_status()
            return answer.json()
        except (httpx.HTTPError, ValueError) as exc:
            raise NetworkFailure(f"gateways at {self._client.base_url}: {exc or type(exc).__name__}") from exc
