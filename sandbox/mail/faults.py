"""Fault injection for SMTP: rules that make the catcher reject, delay or drop mail."""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import Field, model_validator

from sandbox import fault_injection
from sandbox.fault_injection import FaultInjector, FaultRule

Stage = Literal["connect", "mail", "rcpt", "data"]

_REPLY = re.compile(r"[45]\d\d [ -~]{1,400}")

FIELD_HINTS = {
    "recipient": 'a glob over the address, such as "*@example.com"',
    "stage": 'one of "connect", "mail", "rcpt", "data"',
    "action": 'one of "reply", "slow", "drop", "garbage"',
    "reply": 'a code from 400 to 599, a space and ASCII text, such as "451 4.3.0 try later"',
    "seconds": "a number from 0 to 3600",
    "times": "a whole number from 1, or null for always",
    "probability": "a number from 0 to 1",
    "seed": "a whole number, or null",
    "after": 'true or false; true only with stage "data" and action "drop" or "slow"',
}


class MailFaultRule(FaultRule):
    """One fault rule. The first rule that matches an event and is not spent applies.

    The stage `data` is reached when the whole message has been received. With `after`, the message is stored before
    the fault: the client cannot know that it was accepted.
    """

    stage: Stage
    action: Literal["reply", "slow", "drop", "garbage"]
    reply: str = Field(default="451 4.3.0 try later", max_length=100_000)
    """With `garbage`, any text."""
    seconds: float = Field(default=2.0, ge=0, le=3600, allow_inf_nan=False)
    after: bool = False

    @model_validator(mode="after")
    def _validate_combination(self) -> Self:
        if self.action != "garbage" and not _REPLY.fullmatch(self.reply):
            raise ValueError(f"reply: should be {FIELD_HINTS['reply']}")
        if self.stage in ("connect", "mail") and self.recipient != "*":
            raise ValueError(f'recipient: unknown at stage "{self.stage}"; use "*", or stage "rcpt" or "data"')
        if self.after and (self.stage != "data" or self.action == "reply"):
            raise ValueError(f"after: should be {FIELD_HINTS['after']}")
        return self


class MailFaults(FaultInjector[MailFaultRule]):
    """The rules of the mail server."""


def parse_rules(body: bytes) -> list[MailFaultRule]:
    """Parse rules from a JSON list. Raises InvalidFaultRules."""
    return fault_injection.parse_rule_list(MailFaultRule, body, FIELD_HINTS, '[{"stage": "rcpt", "action": "reply"}]')


def validate_rules(found: list[object]) -> list[MailFaultRule]:
    """Validate rules given as plain values. Raises InvalidFaultRules."""
    return fault_injection.validate_rule_list(MailFaultRule, found, FIELD_HINTS)
