"""Compares the producer's record with what the mail server received and what the outbox stores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from chaos.environment import ChaosEnvironment
from chaos.scenario import Tolerances


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of a scenario. `problems` describes every violation; empty if there is none."""

    name: str
    accepted: int
    delivered: int
    duplicates: int
    in_flight: int
    lost: int
    refused: int
    """Rejected permanently by the mail server."""
    seconds: float
    problems: tuple[str, ...]
    measures: Mapping[str, float] = field(default_factory=dict)
    """The scenario's own numbers."""

    def line(self) -> str:
        """The last line of a scenario; `refused` is shown only if the mail server rejects permanently."""
        keys = ("accepted", "delivered", "duplicates", "in_flight", "lost", *(["refused"] if self.refused else []))
        values = {**{key: getattr(self, key) for key in keys}, **self.measures}
        return f"chaos {self.name}: " + " ".join(f"{key}={value}" for key, value in values.items())

    def as_dict(self) -> Mapping[str, Any]:
        """The fields, for JSON."""
        return {key: getattr(self, key) for key in self.__slots__}


def compute_verdict(name: str, env: ChaosEnvironment, tolerances: Tolerances, seconds: float) -> Verdict:
    """Wait until every message is final, then compare accepted, received and stored messages."""
    env.producer.resolve_unknown_outcomes()
    env.wait_finalized()
    received = Counter(
        recipient for arrival in env.mail.list_emails(f"*@{env.domain}") for recipient in arrival.recipients
    )
    return compare_deliveries(
        name, env.producer.accepted, received, env.messages(), env.ledger_missing(), tolerances, seconds
    )


def compare_deliveries(
    name: str,
    accepted: Collection[str],
    received: Counter[str],
    messages: Iterable[tuple[str, str]],
    missing: int,
    tolerances: Tolerances,
    seconds: float,
) -> Verdict:
    """Compare recipients accepted by the producer and received by the mail server, and the outbox's (recipient, state).

    `missing` is the number of messages that the outbox's ledger lacks.
    """
    known, refused = frozenset(accepted), tolerances.expected_dead
    stored = list(messages)
    states = Counter(state for _, state in stored)
    lost = known - received.keys() - refused
    unexpected = received.keys() - known
    duplicates = received.total() - len(received)
    allowed = tolerances.max_duplicates
    checks = {
        f"{len(lost)} accepted messages did not arrive, such as {min(lost, default='')}": lost,
        f"{duplicates} duplicates arrived, at most {allowed} are allowed": duplicates > allowed,
        f"{len(unexpected)} recipients got mail that was not accepted, such as {min(unexpected, default='')}": unexpected,
        f"{len(received.keys() & refused)} rejected recipients got mail": received.keys() & refused,
        "the messages in the outbox differ from those accepted": Counter(to for to, _ in stored) != Counter(known),
        f"the outbox's states are {dict(states)}, not {len(known - refused)} sent and {len(refused)} dead": states
        != Counter({"sent": len(known - refused), "dead": len(refused)}),
        f"{missing} messages of the ledger are missing": missing,
    }
    return Verdict(
        name,
        accepted=len(known) + tolerances.delivered_elsewhere,
        delivered=len(known & received.keys()) + tolerances.delivered_elsewhere,
        duplicates=duplicates,
        in_flight=allowed,
        lost=len(lost),
        refused=len(refused),
        seconds=round(seconds, 1),
        problems=(*tolerances.problems, *(text for text, failed in checks.items() if failed)),
        measures=tolerances.measures,
    )
