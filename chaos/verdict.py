"""The counting: the producer's list against the receiver's and against the outbox's own books."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from chaos.environment import ChaosEnvironment
from chaos.scenario import Tolerances


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a scenario came to. `wrong` says what must not be, in words; empty when all is well."""

    name: str
    accepted: int
    delivered: int
    duplicates: int
    in_flight: int
    lost: int
    refused: int
    seconds: float
    problems: tuple[str, ...]

    def line(self) -> str:
        """The last line of a scenario. `refused` stands there only where the receiver refuses for good."""
        keys = ("accepted", "delivered", "duplicates", "in_flight", "lost", *(["refused"] if self.refused else []))
        return f"chaos {self.name}: " + " ".join(f"{key}={getattr(self, key)}" for key in keys)

    def as_dict(self) -> Mapping[str, Any]:
        """For the file."""
        return {key: getattr(self, key) for key in self.__slots__}


def compute_verdict(name: str, arena: ChaosEnvironment, bounds: Tolerances, seconds: float) -> Verdict:
    """Once every message has its end: what was accepted, what came, and what the outbox says."""
    arena.producer.resolve_unknown_outcomes()
    arena.wait_finalized()
    came = Counter(
        recipient for arrival in arena.mail.list_emails(f"*@{arena.domain}") for recipient in arrival.recipients
    )
    return compare_deliveries(
        name, arena.producer.accepted, came, arena.messages(), arena.ledger_missing(), bounds, seconds
    )


def compare_deliveries(
    name: str,
    accepted: Collection[str],
    received: Counter[str],
    messages: Iterable[tuple[str, str]],
    missing: int,
    bounds: Tolerances,
    seconds: float,
) -> Verdict:
    """The verdict: `accepted` by the producer's list, `came` by the receiver's, `messages` (recipient, state) of the outbox.

    `missing` is what the outbox's ledger lacks.
    """
    known, refused = frozenset(accepted), bounds.expected_dead
    held = list(messages)
    ends = Counter(state for _, state in held)
    lost = known - received.keys() - refused
    strangers = received.keys() - known
    duplicates = received.total() - len(received)
    checks = {
        f"{len(lost)} accepted messages never came, {min(lost, default='')} for one": lost,
        f"{duplicates} came twice, at most {bounds.max_duplicates} may": duplicates > bounds.max_duplicates,
        f"mail came for {len(strangers)} that were never accepted, {min(strangers, default='')} for one": strangers,
        f"mail came for {len(received.keys() & refused)} that were refused": received.keys() & refused,
        "the outbox does not hold exactly what was accepted": Counter(to for to, _ in held) != Counter(known),
        f"the outbox's ends are {dict(ends)}, not {len(known - refused)} sent and {len(refused)} dead": ends
        != Counter({"sent": len(known - refused), "dead": len(refused)}),
        f"the ledger misses {missing} messages": missing,
    }
    return Verdict(
        name,
        accepted=len(known),
        delivered=len(known & received.keys()),
        duplicates=duplicates,
        in_flight=bounds.max_duplicates,
        lost=len(lost),
        refused=len(refused),
        seconds=round(seconds, 1),
        problems=tuple(text for text, is_so in checks.items() if is_so),
    )
