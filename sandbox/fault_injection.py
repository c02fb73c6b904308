"""Fault switches, whatever the service: rules with a count and dice, and words for what is wrong with one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from random import Random
from typing import Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError


class InvalidFaultRules(ValueError):
    """The rules were not accepted. The text names the field and the fix."""


class FaultRule(BaseModel):
    """What every rule has: whom it strikes, how often, and with which luck."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    recipient: str = Field(default="*", min_length=1, max_length=320)
    stage: str
    times: int | None = Field(default=None, ge=1)
    probability: float = Field(default=1.0, ge=0, le=1)
    seed: int | None = None


RuleT = TypeVar("RuleT", bound=FaultRule)


class ActiveRule(Generic[RuleT]):
    """A rule with its count and its dice."""

    def __init__(self, rule: RuleT) -> None:
        self.rule = rule
        self.fired_count = 0
        self._random = Random(rule.seed)  # noqa: S311

    @property
    def remaining(self) -> int | None:
        """How many times it will still fire, or None for always."""
        return None if self.rule.times is None else self.rule.times - self.fired_count

    def matches(self, stage: str, recipients: Sequence[str]) -> bool:
        """Whether it fires for this event; counts it if so."""
        rule = self.rule
        if rule.stage != stage or self.remaining == 0:
            return False
        pattern = rule.recipient.lower()
        if pattern != "*" and not any(fnmatchcase(recipient.lower(), pattern) for recipient in recipients):
            return False
        if rule.probability < 1 and self._random.random() >= rule.probability:
            return False
        self.fired_count += 1
        return True

    def as_dict(self) -> dict[str, object]:
        """The rule with `remaining` and `fired`, for JSON."""
        return {**self.rule.model_dump(), "remaining": self.remaining, "fired": self.fired_count}


class FaultInjector(Generic[RuleT]):
    """The rules now in force, in order."""

    def __init__(self) -> None:
        self.active_rules: list[ActiveRule[RuleT]] = []

    def replace(self, rules: list[RuleT]) -> None:
        """Put these rules in the place of all others, counts at zero."""
        self.active_rules = [ActiveRule(rule) for rule in rules]

    def add(self, rules: list[RuleT]) -> None:
        """Append rules; the counts of the others stay."""
        self.active_rules += [ActiveRule(rule) for rule in rules]

    def match(self, stage: str, recipients: Sequence[str] = ()) -> RuleT | None:
        """The rule that decides this event, or None."""
        return next((armed.rule for armed in self.active_rules if armed.matches(stage, recipients)), None)

    @property
    def active_count(self) -> int:
        """How many rules are not spent."""
        return sum(armed.remaining != 0 for armed in self.active_rules)

    def as_dicts(self) -> list[dict[str, object]]:
        """All rules, spent ones too, for JSON."""
        return [armed.as_dict() for armed in self.active_rules]


def parse_rule_list(kind: type[RuleT], body: bytes, hints: Mapping[str, str], example: str) -> list[RuleT]:
    """Rules from a JSON list. Raises InvalidRules."""
    try:
        found = json.loads(body)
    except ValueError as exc:
        raise InvalidFaultRules(f"body: not JSON ({exc}); send a list of rules") from exc
    if not isinstance(found, list):
        raise InvalidFaultRules(f"body: should be a list of rules, such as {example}")
    return validate_rule_list(kind, found, hints)


def validate_rule_list(kind: type[RuleT], found: list[object], hints: Mapping[str, str]) -> list[RuleT]:
    """Rules from plain values; `hints` says what each field should be. Raises InvalidRules."""
    try:
        return TypeAdapter(list[kind]).validate_python(found)  # type: ignore[valid-type]
    except ValidationError as exc:
        raise InvalidFaultRules("; ".join(_error_message(dict(error), hints) for error in exc.errors())) from exc


def _error_message(error: dict[str, object], hints: Mapping[str, str]) -> str:
    place = error["loc"]
    where = place if isinstance(place, tuple) else ()
    rule, field = f"[{where[0]}]" if where else "", str(where[1]) if len(where) > 1 else ""
    if not field:
        problem = str(error["msg"]).removeprefix("Value error, ")
        return f"{rule}.{problem}" if error["type"] == "value_error" else f"{rule}: should be an object, one rule"
    if error["type"] == "extra_forbidden":
        return f"{rule}.{field}: unknown field; known ones are {', '.join(hints)}"
    if error["type"] == "missing":
        return f"{rule}.{field}: missing; give {hints[field]}"
    return f"{rule}.{field}: should be {hints[field]}; got {json.dumps(error['input'], default=str)[:200]}"
