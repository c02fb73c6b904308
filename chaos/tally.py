"""The counting: the producer's list against the receiver's and against the outbox's own books."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from chaos.arena import Arena
from chaos.scenario import Bounds


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
    wrong: tuple[str, ...]

    def line(self) -> str:
        """The last line of a scenario. `refused` stands there only where the receiver refuses for good."""
        keys = ("accepted", "delivered", "duplicates", "in_flight", "lost", *(["refused"] if self.refused else []))
        return f"chaos {self.name}: " + " ".join(f"{key}={getattr(self, key)}" for key in keys)

    def as_dict(self) -> Mapping[str, Any]:
        """For the file."""
        return {key: getattr(self, key) for key in self.__slots__}


def count(name: str, arena: Arena, bounds: Bounds, seconds: float) -> Verdict:
    """Once every message has its end: what was accepted, what came, and what the outbox says."""
    arena.producer.settle()
    arena.wait_ended()
    came = Counter(
        recipient for arrival in arena.mail.arrivals(f"*@{arena.domain}") for recipient in arrival.recipients
    )
    return compare(name, arena.producer.accepted, came, arena.messages(), arena.missing(), bounds, seconds)


def compare(
    name: str,
    accepted: Collection[str],
    came: Counter[str],
    messages: Iterable[tuple[str, str]],
    missing: int,
    bounds: Bounds,
    seconds: float,
) -> Verdict:
    """The verdict: `accepted` by the producer's list, `came` by the receiver's, `messages` (recipient, state) of the outbox.

    `missing` is what the outbox's ledger lacks.
    """
    known, refused = frozenset(accepted), bounds.refused
    held = list(messages)
    ends = Counter(state for _, state in held)
    lost = known - came.keys() - refused
    strangers = came.keys() - known
    duplicates = came.total() - len(came)
    checks = {
        f"{len(lost)} accepted messages never came, {min(lost, default='')} for one": lost,
        f"{duplicates} came twice, at most {bounds.in_flight} may": duplicates > bounds.in_flight,
        f"mail came for {len(strangers)} that were never accepted, {min(strangers, default='')} for one": strangers,
        f"mail came for {len(came.keys() & refused)} that were refused": came.keys() & refused,
        "the outbox does not hold exactly what was accepted": Counter(to for to, _ in held) != Counter(known),
        f"the outbox's ends are {dict(ends)}, not {len(known - refused)} sent and {len(refused)} dead": ends
        != Counter({"sent": len(known - refused), "dead": len(refused)}),
        f"the ledger misses {missing} messages": missing,
    }
    return Verdict(
        name,
        accepted=len(known),
        delivered=len(known & came.keys()),
        duplicates=duplicates,
        in_flight=bounds.in_flight,
        lost=len(lost),
        refused=len(refused),
        seconds=round(seconds, 1),
        wrong=tuple(text for text, is_so in checks.items() if is_so),
    )
