"""Fault switches: rules that make a gateway answer as a troubled HTTP service would."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from sandbox import fault_injection
from sandbox.fault_injection import FaultInjector, FaultRule

REQUEST_STAGE = "request"

FIELD_HINTS = {
    "recipient": 'a glob over the recipient, such as "+4915*"',
    "stage": f'"{REQUEST_STAGE}", the only one, so it can be left out',
    "action": 'one of "reply", "slow", "drop"',
    "status": "a whole number from 300 to 599, or 200 for an answer that is none",
    "body": "an object, the JSON of the answer, or a text",
    "retry_after": "a whole number of seconds, or null for no such header",
    "seconds": "a number from 0 to 3600",
    "times": "a whole number from 1, or null for always",
    "probability": "a number from 0 to 1",
    "seed": "a whole number, or null",
    "after": 'true or false; true only with action "drop" or "slow"',
}


class GatewayFaultRule(FaultRule):
    """One switch. The first rule that matches a request and has fires left decides what happens.

    `after` keeps the message before the fault: the client cannot know that it was accepted.
    """

    stage: Literal["request"] = "request"
    action: Literal["reply", "slow", "drop"] = "reply"
    status: int = Field(default=503, ge=200, le=599)
    body: dict[str, Any] | str = Field(default_factory=dict)
    retry_after: int | None = Field(default=None, ge=0, le=1_000_000)
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
    """Rules from a JSON list. Raises InvalidRules."""
    return fault_injection.parse_rule_list(GatewayFaultRule, body, FIELD_HINTS, '[{"status": 503, "times": 2}]')


def validate_rules(found: list[object]) -> list[GatewayFaultRule]:
    """Rules from plain values. Raises InvalidRules."""
    return fault_injection.validate_rule_list(GatewayFaultRule, found, FIELD_HINTS)
