"""Fault injection for gateways: rules that make one answer with errors, answer slowly or drop the connection."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator
from starlette.types import ASGIApp, Receive, Scope, Send

from sandbox import fault_injection
from sandbox.fault_injection import FaultInjector, FaultRule

REQUEST_STAGE = "request"

FIELD_HINTS = {
    "recipient": 'a glob over the recipient, such as "+4915*"',
    "stage": f'"{REQUEST_STAGE}" (the only stage; optional)',
    "action": 'one of "reply", "slow", "drop"',
    "status": "a whole number from 200 to 599",
    "body": "an object (JSON response) or a string (text response)",
    "retry_after": "a whole number of seconds, or null for no Retry-After header",
    "headers": 'a list of further headers, each a list of name and value: [["Retry-After", "soon"]]',
    "endless": "true or false; true repeats the body until the client has enough",
    "seconds": "a number from 0 to 3600",
    "times": "a whole number from 1, or null for always",
    "probability": "a number from 0 to 1",
    "seed": "a whole number, or null",
    "after": 'true or false; true only with action "drop" or "slow"',
}


class GatewayFaultRule(FaultRule):
    """One fault rule. The first rule that matches a request and is not spent applies.

    With `after`, the message is stored before the fault: the client cannot know that it was accepted.
    """

    stage: Literal["request"] = "request"
    action: Literal["reply", "slow", "drop"] = "reply"
    status: int = Field(default=503, ge=200, le=599)
    body: dict[str, Any] | str = Field(default_factory=dict)
    retry_after: int | None = Field(default=None, ge=0, le=1_000_000)
    headers: list[list[str]] = Field(default_factory=list, max_length=1000)
    endless: bool = False
    seconds: float = Field(default=2.0, ge=0, le=3600, allow_inf_nan=False)
    after: bool = False

    @model_validator(mode="after")
    def _validate_combination(self) -> Self:
        if self.after and self.action == "reply":
            raise ValueError(f"after: should be {FIELD_HINTS['after']}")
        return self


class GatewayFaults(FaultInjector[GatewayFaultRule]):
    """The rules of one gateway."""


def parse_rules(body: bytes) -> list[GatewayFaultRule]:
    """Parse rules from a JSON list. Raises InvalidFaultRules."""
    return fault_injection.parse_rule_list(GatewayFaultRule, body, FIELD_HINTS, '[{"status": 503, "times": 2}]')


def validate_rules(found: list[object]) -> list[GatewayFaultRule]:
    """Validate rules given as plain values. Raises InvalidFaultRules."""
    return fault_injection.validate_rule_list(GatewayFaultRule, found, FIELD_HINTS)


class ConnectionDropped(BaseException):
    """Raised by a handler to drop the connection. Not an Exception: the framework would answer 500 to one."""


class DropConnectionMiddleware:
    """Aborts the connection when a handler raises ConnectionDropped. Wraps the whole application; needs uvicorn."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        try:
            await self._app(scope, receive, send)
        except ConnectionDropped:
            send.__self__.transport.abort()  # type: ignore[attr-defined]
            while (await receive())["type"] != "http.disconnect":
                pass
