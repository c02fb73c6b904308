"""Fault switches: rules that make the catcher answer as a troubled mail server would."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from random import Random
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator, model_validator

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


class InvalidRules(ValueError):
    """The rules were not accepted. The text names the field and the fix."""


class Rule(BaseModel):
    """One switch. The first rule that matches an event and has fires left decides what happens.

    `stage` data is judged when the whole message is in. `after` keeps the message before the fault: the
    client cannot know that it was accepted.
    """

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    recipient: str = Field(default="*", min_length=1, max_length=320)
    stage: Stage
    action: Literal["reply", "slow", "drop"]
    reply: str = "451 4.3.0 try later"
    seconds: float = Field(default=2.0, ge=0, le=3600, allow_inf_nan=False)
    times: int | None = Field(default=None, ge=1)
    probability: float = Field(default=1.0, ge=0, le=1)
    seed: int | None = None
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


class ArmedRule:
    """A rule with its count and its dice."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.fired = 0
        self._random = Random(rule.seed)  # noqa: S311

    @property
    def remaining(self) -> int | None:
        """How many times it will still fire, or None for always."""
        return None if self.rule.times is None else self.rule.times - self.fired

    def strikes(self, stage: Stage, recipients: Sequence[str]) -> bool:
        """Whether it fires for this event; counts it if so."""
        rule = self.rule
        if rule.stage != stage or self.remaining == 0:
            return False
        pattern = rule.recipient.lower()
        if pattern != "*" and not any(fnmatchcase(recipient.lower(), pattern) for recipient in recipients):
            return False
        if rule.probability < 1 and self._random.random() >= rule.probability:
            return False
        self.fired += 1
        return True

    def describe(self) -> dict[str, object]:
        """The rule with `remaining` and `fired`, for JSON."""
        return {**self.rule.model_dump(), "remaining": self.remaining, "fired": self.fired}


class Faults:
    """The rules now in force, in order."""

    def __init__(self) -> None:
        self.armed: list[ArmedRule] = []

    def replace(self, rules: list[Rule]) -> None:
        """Put these rules in the place of all others, counts at zero."""
        self.armed = [ArmedRule(rule) for rule in rules]

    def add(self, rules: list[Rule]) -> None:
        """Append rules; the counts of the others stay."""
        self.armed += [ArmedRule(rule) for rule in rules]

    def strike(self, stage: Stage, recipients: Sequence[str] = ()) -> Rule | None:
        """The rule that decides this event, or None."""
        return next((armed.rule for armed in self.armed if armed.strikes(stage, recipients)), None)

    @property
    def active(self) -> int:
        """How many rules are not spent."""
        return sum(armed.remaining != 0 for armed in self.armed)

    def describe(self) -> list[dict[str, object]]:
        """All rules, spent ones too, for JSON."""
        return [armed.describe() for armed in self.armed]


def parse_rules(body: bytes) -> list[Rule]:
    """Rules from a JSON list. Raises InvalidRules."""
    try:
        found = json.loads(body)
    except ValueError as exc:
        raise InvalidRules(f"body: not JSON ({exc}); send a list of rules") from exc
    if not isinstance(found, list):
        raise InvalidRules('body: should be a list of rules, such as [{"stage": "rcpt", "action": "reply"}]')
    return check_rules(found)


def check_rules(found: list[object]) -> list[Rule]:
    """Rules from plain values. Raises InvalidRules."""
    try:
        return TypeAdapter(list[Rule]).validate_python(found)
    except ValidationError as exc:
        raise InvalidRules("; ".join(_explain(dict(error)) for error in exc.errors())) from exc


def _explain(error: dict[str, object]) -> str:
    place = error["loc"]
    where = place if isinstance(place, tuple) else ()
    rule, field = f"[{where[0]}]" if where else "", str(where[1]) if len(where) > 1 else ""
    if not field:
        problem = str(error["msg"]).removeprefix("Value error, ")
        return f"{rule}.{problem}" if error["type"] == "value_error" else f"{rule}: should be an object, one rule"
    if error["type"] == "extra_forbidden":
        return f"{rule}.{field}: unknown field; known ones are {', '.join(HINTS)}"
    if error["type"] == "missing":
        return f"{rule}.{field}: missing; give {HINTS[field]}"
    return f"{rule}.{field}: should be {HINTS[field]}; got {json.dumps(error['input'], default=str)[:200]}"
