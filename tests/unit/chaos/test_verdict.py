"""The counting finds every way in which a promise can be broken."""

from __future__ import annotations

from collections import Counter

import pytest

from chaos.scenario import Tolerances
from chaos.verdict import compare_deliveries

ALL_RECIPIENTS = ("ann", "bob", "cid")
SENT = [(name, "sent") for name in ALL_RECIPIENTS]


def test_all_is_well() -> None:
    verdict = compare_deliveries("quiet", ALL_RECIPIENTS, Counter(ALL_RECIPIENTS), SENT, 0, Tolerances(0), 1.0)
    assert verdict.problems == ()
    assert verdict.line() == "chaos quiet: accepted=3 delivered=3 duplicates=0 in_flight=0 lost=0"


def test_what_is_refused_is_not_lost() -> None:
    ends = [("ann", "sent"), ("bob", "sent"), ("cid", "dead")]
    verdict = compare_deliveries(
        "gone", ALL_RECIPIENTS, Counter(("ann", "bob")), ends, 0, Tolerances(0, frozenset({"cid"})), 1.0
    )
    assert verdict.problems == ()
    assert verdict.line() == "chaos gone: accepted=3 delivered=2 duplicates=0 in_flight=0 lost=0 refused=1"


def test_duplicates_within_the_bound_are_told_and_allowed() -> None:
    verdict = compare_deliveries("kill", ALL_RECIPIENTS, Counter((*ALL_RECIPIENTS, "ann")), SENT, 0, Tolerances(1), 1.0)
    assert (verdict.duplicates, verdict.problems) == (1, ())


@pytest.mark.parametrize(
    ("came", "messages", "missing", "bounds", "said"),
    [
        (("ann", "bob"), SENT, 0, Tolerances(0), "1 accepted messages never came, cid for one"),
        ((*ALL_RECIPIENTS, "ann", "ann"), SENT, 0, Tolerances(1), "2 came twice, at most 1 may"),
        ((*ALL_RECIPIENTS, "eve"), SENT, 0, Tolerances(0), "mail came for 1 that were never accepted, eve for one"),
        (ALL_RECIPIENTS, SENT, 0, Tolerances(0, frozenset({"cid"})), "mail came for 1 that were refused"),
        (ALL_RECIPIENTS, SENT[:2], 0, Tolerances(0), "the outbox does not hold exactly what was accepted"),
        (
            ALL_RECIPIENTS,
            [*SENT, ("ann", "sent")],
            0,
            Tolerances(0),
            "the outbox does not hold exactly what was accepted",
        ),
        (
            ALL_RECIPIENTS,
            [*SENT[:2], ("cid", "dead")],
            0,
            Tolerances(0),
            "the outbox's ends are {'sent': 2, 'dead': 1}",
        ),
        (ALL_RECIPIENTS, SENT, 2, Tolerances(0), "the ledger misses 2 messages"),
    ],
)
def test_each_broken_promise_is_named(
    came: tuple[str, ...], messages: list[tuple[str, str]], missing: int, bounds: Tolerances, said: str
) -> None:
    verdict = compare_deliveries("bad", ALL_RECIPIENTS, Counter(came), messages, missing, bounds, 1.0)
    assert [text for text in verdict.problems if said in text]
