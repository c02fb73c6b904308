"""The verdict finds every kind of violation."""

from __future__ import annotations

from collections import Counter

import pytest

from chaos.scenario import Tolerances
from chaos.verdict import compare_deliveries

ALL_RECIPIENTS = ("ann", "bob", "cid")
SENT = [(name, "sent") for name in ALL_RECIPIENTS]


def test_no_violation() -> None:
    verdict = compare_deliveries("quiet", ALL_RECIPIENTS, Counter(ALL_RECIPIENTS), SENT, 0, Tolerances(0), 1.0)
    assert verdict.problems == ()
    assert verdict.line() == "chaos quiet: accepted=3 delivered=3 duplicates=0 in_flight=0 lost=0"


def test_a_rejected_message_is_not_lost() -> None:
    ends = [("ann", "sent"), ("bob", "sent"), ("cid", "dead")]
    verdict = compare_deliveries(
        "gone", ALL_RECIPIENTS, Counter(("ann", "bob")), ends, 0, Tolerances(0, frozenset({"cid"})), 1.0
    )
    assert verdict.problems == ()
    assert verdict.line() == "chaos gone: accepted=3 delivered=2 duplicates=0 in_flight=0 lost=0 refused=1"


def test_duplicates_within_the_bound_are_counted_and_allowed() -> None:
    verdict = compare_deliveries("kill", ALL_RECIPIENTS, Counter((*ALL_RECIPIENTS, "ann")), SENT, 0, Tolerances(1), 1.0)
    assert (verdict.duplicates, verdict.problems) == (1, ())


@pytest.mark.parametrize(
    ("received", "messages", "missing", "tolerances", "problem"),
    [
        (("ann", "bob"), SENT, 0, Tolerances(0), "1 accepted messages did not arrive, such as cid"),
        ((*ALL_RECIPIENTS, "ann", "ann"), SENT, 0, Tolerances(1), "2 duplicates arrived, at most 1 are allowed"),
        ((*ALL_RECIPIENTS, "eve"), SENT, 0, Tolerances(0), "1 recipients got mail that was not accepted, such as eve"),
        (ALL_RECIPIENTS, SENT, 0, Tolerances(0, frozenset({"cid"})), "1 rejected recipients got mail"),
        (ALL_RECIPIENTS, SENT[:2], 0, Tolerances(0), "the messages in the outbox differ from those accepted"),
        (
            ALL_RECIPIENTS,
            [*SENT, ("ann", "sent")],
            0,
            Tolerances(0),
            "the messages in the outbox differ from those accepted",
        ),
        (
            ALL_RECIPIENTS,
            [*SENT[:2], ("cid", "dead")],
            0,
            Tolerances(0),
            "the outbox's states are {'sent': 2, 'dead': 1}",
        ),
        (ALL_RECIPIENTS, SENT, 2, Tolerances(0), "2 messages of the ledger are missing"),
    ],
)
def test_each_violation_is_described(
    received: tuple[str, ...], messages: list[tuple[str, str]], missing: int, tolerances: Tolerances, problem: str
) -> None:
    verdict = compare_deliveries("bad", ALL_RECIPIENTS, Counter(received), messages, missing, tolerances, 1.0)
    assert [text for text in verdict.problems if problem in text]
