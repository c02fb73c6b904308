"""Fault switches: rules that make the catcher answer as a troubled mail server would."""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from sandbox import fault_injection
from sandbox.fault_injection import FaultInjector, FaultRule

Stage = Literal["connect", "mail", "rcpt", "data"]

_REPLY = re.compile(r"[45]\d\d [ -~]{1,400}")

FIELD_HINTS = {
    "recipient": 'a glob over the address, such as "*@example.com"',
    "stage": 'one of "connect", "mail", "rcpt", "data"',
    "action": 'one of "reply", "slow", "drop"',
    "reply": 'a code from 400 to 599, a space and ASCII text, such as "451 4.3.0 try later"',
    "seconds": "a number from 0 to 3600",
    "times": "a whole number from 1, or null for always",
    "probability": "a number from 0 to 1",
    "seed": "a whole number, or null",
    "after": 'true or false; true only with stage "data" and action "drop" or "slow"',
}


class MailFaultRule(FaultRule):
    """One switch. The first rule that matches an event and has fires left decides what happens.

    `stage` data is judged when the whole message is in. `after` keeps the message before the fault: the
    client cannot know that it was accepted.
    """

    stage: Stage
    action: Literal["reply", "slow", "drop"]
    reply: str = "451 4.3.0 try later"
    seconds: float = Field(default=2.0, ge=0, le=3600, allow_inf_nan=False)
    after: bool = False

    @field_validator("reply")
    @classmethod
    def _validate_reply(cls, reply: str) -> str:
        if not _REPLY.fullmatch(reply):
            raise ValueError("not a refusal")
        return reply

    @model_validator(mode="after")
    def _validate_combination(self) -> Self:
        if self.stage in ("connect", "mail") and self.recipient != "*":
            raise ValueError(f'recipient: not known yet at stage "{self.stage}"; use "*", or stage "rcpt" or "data"')
        if self.after and (self.stage != "data" or self.action == "reply"):
            raise ValueError(f"after: should be {FIELD_HINTS['after']}")
        return self


class MailFaults(FaultInjector[MailFaultRule]):
    """The rules of the mail server."""


def parse_rules(body: bytes) -> list[MailFaultRule]:
    """Rules from a JSON list. Raises InvalidRules."""
    return fault_injection.parse_rule_list(MailFaultRule, body, FIELD_HINTS, '[{"stage": "rcpt", "action": "reply"}]')


def validate_rules(found: list[object]) -> list[MailFaultRule]:
    """Rules from plain values. Raises InvalidRules."""
    return fault_injection.validate_rule_list(MailFaultRule, found, FIELD_HINTS)
