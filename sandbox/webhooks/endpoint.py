"""The received webhook requests, and the fault rules that decide the responses."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

REQUEST_LIMIT = 20_000
"""How many requests are kept: the newest."""
RULE_LIMIT = 100


class InvalidFaultRules(ValueError):
    """The rules are invalid. The text names the field and the fix."""


@dataclass(frozen=True, slots=True)
class ReceivedRequest:
    """One request, with the status of its response."""

    id: int
    name: str
    """The endpoint: what follows /webhooks/in/."""
    received_at: float
    """Seconds since 1970."""
    headers: Mapping[str, str]
    """Names in lower case."""
    body: str
    status: int

    def as_json(self) -> dict[str, object]:
        """For the JSON API."""
        return {
            "id": self.id, "name": self.name, "at": self.received_at, "headers": dict(self.headers), "body": self.body,
            "status": self.status,
        }  # fmt: skip

    @property
    def event_type(self) -> str:
        """The event type in the body; empty if there is none."""
        try:
            event = json.loads(self.body)
        except ValueError:
            return ""
        return str(event.get("type", "")) if isinstance(event, dict) else ""


class WebhookFaultRule(BaseModel):
    """One fault rule for endpoints whose name matches. The first rule that matches and is not spent applies."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    name: str = Field(default="*", min_length=1, max_length=200)
    status: int = Field(default=503, ge=200, le=599)
    retry_after: int | None = Field(default=None, ge=0, le=86_400)
    location: str | None = Field(default=None, max_length=500)
    headers: list[list[str]] = Field(default_factory=list, max_length=1000)
    """Further headers, each a name and a value."""
    body: str | None = Field(default=None, max_length=100_000)
    endless: bool = False
    """Repeat the body until the client has enough."""
    seconds: float = Field(default=0.0, ge=0, le=3600, allow_inf_nan=False)
    drop: bool = False
    """Close the connection instead of responding."""
    times: int | None = Field(default=None, ge=1)

    def response_headers(self) -> dict[str, str]:
        """Headers of the response."""
        headers = {"Retry-After": self.retry_after, "Location": self.location}
        return {name: str(value) for name, value in headers.items() if value is not None}


_RULES = TypeAdapter(list[WebhookFaultRule])


class WebhookEndpoint:
    """The requests and rules of all endpoints, in memory."""

    def __init__(self) -> None:
        self._received: deque[ReceivedRequest] = deque(maxlen=REQUEST_LIMIT)
        self._rules: list[WebhookFaultRule] = []
        self._fired_counts: list[int] = []
        self._next_id = 1

    def record(self, name: str, headers: Mapping[str, str], body: bytes, status: int) -> None:
        """Store one request."""
        text = body.decode("utf-8", "replace")
        self._received.append(ReceivedRequest(self._next_id, name, time.time(), headers, text, status))
        self._next_id += 1

    def find(self, name: str = "*", since: int = 0) -> Iterator[ReceivedRequest]:
        """Requests to endpoints whose name matches, with a higher id than `since`, oldest first."""
        return (one for one in self._received if one.id > since and fnmatchcase(one.name, name))

    def clear(self) -> int:
        """Delete all requests; returns how many there were."""
        count = len(self._received)
        self._received.clear()
        return count

    def match_rule(self, name: str) -> WebhookFaultRule | None:
        """The rule that applies to this request, counted; None if it is accepted."""
        for index, rule in enumerate(self._rules):
            if fnmatchcase(name, rule.name) and (rule.times is None or self._fired_counts[index] < rule.times):
                self._fired_counts[index] += 1
                return rule
        return None

    def replace_rules(self, rules: list[WebhookFaultRule]) -> None:
        """Replace all rules; counts start at zero."""
        self._rules, self._fired_counts = rules, [0] * len(rules)

    def add_rule(self, rule: WebhookFaultRule) -> None:
        """Append a rule; existing rules keep their counts."""
        self._rules.append(rule)
        self._fired_counts.append(0)

    def rules(self) -> list[dict[str, object]]:
        """The rules with how often each fired."""
        return [
            {**rule.model_dump(), "fired": fired} for rule, fired in zip(self._rules, self._fired_counts, strict=True)
        ]


def parse_rules(text: bytes) -> list[WebhookFaultRule]:
    """Parse rules from JSON; InvalidFaultRules names the field."""
    try:
        rules = _RULES.validate_json(text)
    except ValidationError as exc:
        error = exc.errors(include_url=False, include_input=False)[0]
        where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error["loc"]).lstrip(".")
        raise InvalidFaultRules(f"{where or 'body'}: {error['msg'][0].lower()}{error['msg'][1:]}") from None
    if len(rules) > RULE_LIMIT:
        raise InvalidFaultRules(f"body: should have at most {RULE_LIMIT} rules")
    return rules
