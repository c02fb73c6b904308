"""Fault injection for every emulated service: rules with a limit and a probability, and messages for invalid rules."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from random import Random
from typing import Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError


class InvalidFaultRules(ValueError):
    """The rules are invalid. The text names the field and the fix."""


class FaultRule(BaseModel):
    """Fields of every rule: which recipients it applies to, how often, and with which probability."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    recipient: str = Field(default="*", min_length=1, max_length=320)
    stage: str
    times: int | None = Field(default=None, ge=1)
    probability: float = Field(default=1.0, ge=0, le=1)
    seed: int | None = None


RuleT = TypeVar("RuleT", bound=FaultRule)


class ActiveRule(Generic[RuleT]):
    """A rule with its count and its random generator."""

    def __init__(self, rule: RuleT) -> None:
        self.rule = rule
        self.fired_count = 0
        self._random = Random(rule.seed)  # noqa: S311

    @property
    def remaining(self) -> int | None:
        """How many times it can still fire; None if unlimited."""
        return None if self.rule.times is None else self.rule.times - self.fired_count

    def matches(self, stage: str, recipients: Sequence[str]) -> bool:
        """Whether the rule fires for this event; counts it if so."""
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
    """The active rules, in order."""

    def __init__(self) -> None:
        self.active_rules: list[ActiveRule[RuleT]] = []

    def replace(self, rules: list[RuleT]) -> None:
        """Replace all rules; counts start at zero."""
        self.active_rules = [ActiveRule(rule) for rule in rules]

    def add(self, rules: list[RuleT]) -> None:
        """Append rules; existing rules keep their counts."""
        self.active_rules += [ActiveRule(rule) for rule in rules]

    def match(self, stage: str, recipients: Sequence[str] = ()) -> RuleT | None:
        """The first rule that fires for this event, or None."""
        return next((active.rule for active in self.active_rules if active.matches(stage, recipients)), None)

    @property
    def active_count(self) -> int:
        """How many rules can still fire."""
        return sum(active.remaining != 0 for active in self.active_rules)

    def as_dicts(self) -> list[dict[str, object]]:
        """All rules, including spent ones, for JSON."""
        return [active.as_dict() for active in self.active_rules]


def parse_rule_list(kind: type[RuleT], body: bytes, hints: Mapping[str, str], example: str) -> list[RuleT]:
    """Parse rules from a JSON list. Raises InvalidFaultRules."""
    try:
        found = json.loads(body)
    except ValueError as exc:
        raise InvalidFaultRules(f"body: not JSON ({exc}); send a list of rules") from exc
    if not isinstance(found, list):
        raise InvalidFaultRules(f"body: should be a list of rules, such as {example}")
    return validate_rule_list(kind, found, hints)


def validate_rule_list(kind: type[RuleT], found: list[object], hints: Mapping[str, str]) -> list[RuleT]:
    """Validate rules given as plain values; `hints` describes each field. Raises InvalidFaultRules."""
    try:
        return TypeAdapter(list[kind]).validate_python(found)  # type: ignore[valid-type]
    except ValidationError as exc:
        raise InvalidFaultRules("; ".join(_error_message(dict(error), hints) for error in exc.errors())) from exc


def parse_rule_form(
    form: Mapping[str, str], presets: Mapping[str, Mapping[str, object]], hints: Mapping[str, str]
) -> dict[str, object]:
    """Build a rule from a form: its `kind` names a preset, the other fields override it. Raises InvalidFaultRules."""
    kind = form.get("kind", "")
    if kind not in presets:
        raise InvalidFaultRules(f"kind: use one of {', '.join(presets)}")
    readers: dict[str, Callable[[str], object]] = {"times": int, "seconds": float, "probability": float}
    rule = dict(presets[kind])
    for field, text in form.items():
        try:
            if field != "kind":
                rule[field] = readers.get(field, str)(text.strip())
        except ValueError:
            raise InvalidFaultRules(f"{field}: should be {hints[field]}") from None
    return rule


def _error_message(error: dict[str, object], hints: Mapping[str, str]) -> str:
    location = error["loc"]
    where = location if isinstance(location, tuple) else ()
    rule, field = f"[{where[0]}]" if where else "", str(where[1]) if len(where) > 1 else ""
    if not field:
        problem = str(error["msg"]).removeprefix("Value error, ")
        return f"{rule}.{problem}" if error["type"] == "value_error" else f"{rule}: should be an object, one rule"
    if error["type"] == "extra_forbidden":
        return f"{rule}.{field}: unknown field; known ones are {', '.join(hints)}"
    if error["type"] == "missing":
        return f"{rule}.{field}: missing; give {hints[field]}"
    return f"{rule}.{field}: should be {hints[field]}; got {json.dumps(error['input'], default=str)[:200]}"
