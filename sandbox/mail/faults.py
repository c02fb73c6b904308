"""Fault switches: rules that make the catcher answer as a troubled mail server would."""

from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from sandbox import switches
from sandbox.switches import Switch, Switches

Stage = Literal["connect", "mail", "rcpt", "data"]

_REPLY = re.compile(r"[45]\d\d [ -~]{1,400}")

HINTS = {
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


class Rule(Switch):
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
    def _is_a_refusal(cls, reply: str) -> str:
        if not _REPLY.fullmatch(reply):
            raise ValueError("not a refusal")
        return reply

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.stage in ("connect", "mail") and self.recipient != "*":
            raise ValueError(f'recipient: not known yet at stage "{self.stage}"; use "*", or stage "rcpt" or "data"')
        if self.after and (self.stage != "data" or self.action == "reply"):
            raise ValueError(f"after: should be {HINTS['after']}")
        return self


class Faults(Switches[Rule]):
    """The rules of the mail server."""


def parse_rules(body: bytes) -> list[Rule]:
    """Rules from a JSON list. Raises InvalidRules."""
    return switches.parse(Rule, body, HINTS, '[{"stage": "rcpt", "action": "reply"}]')


def check_rules(found: list[object]) -> list[Rule]:
    """Rules from plain values. Raises InvalidRules."""
    return switches.check(Rule, found, HINTS)
