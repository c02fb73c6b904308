from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from backline.messages.types.commerce import PaymentFailed
from backline.payments.declines import (
    HARD_CODES,
    NEEDS_ACTION_CODES,
    Decline,
    DeclineReason,
    classify,
    next_attempt_at,
)
from backline.payments.settings import PaymentSettings

SCHEDULES = st.sets(st.integers(1, 365), max_size=8).map(sorted)
FIRST = datetime(2026, 3, 1, 12, tzinfo=UTC)
LATER = st.lists(st.timedeltas(timedelta(0), timedelta(days=500)), max_size=10).map(
    lambda offsets: [FIRST, *(FIRST + offset for offset in sorted(offsets))]
)
"""The times of a payment's declines, in order."""
SOFT = Decline("soft", "insufficient_funds")


@pytest.mark.parametrize(
    ("codes", "kind", "code", "reason"),
    [
        (("insufficient_funds", "card_declined"), "soft", "insufficient_funds", "insufficient_funds"),
        (("stolen_card", "card_declined"), "hard", "stolen_card", "card_declined"),
        (("lost_card", "card_declined"), "hard", "lost_card", "card_declined"),
        (("expired_card", "expired_card"), "hard", "expired_card", "card_expired"),
        ((None, "expired_card"), "hard", "expired_card", "card_expired"),
        (("authentication_required", "authentication_required"), "needs_action", "authentication_required", "authentication_required"),
        ((None, "processing_error"), "soft", "processing_error", "provider_unavailable"),
        (("do_not_honor", "card_declined"), "soft", "do_not_honor", "card_declined"),
        (("something_new", "expired_card"), "hard", "expired_card", "card_expired"),
        (("something_new", None), "soft", "something_new", "card_declined"),
        ((None, None), "soft", "unknown", "card_declined"),
        ((None, "payment_method_missing"), "needs_action", "payment_method_missing", "other"),
    ],
)  # fmt: skip
def test_codes_are_classified(codes: tuple[str | None, ...], kind: str, code: str, reason: str) -> None:
    found = classify(codes)
    assert (found.kind, found.code, found.reason) == (kind, code, reason)


def test_no_code_has_two_kinds() -> None:
    assert not HARD_CODES & NEEDS_ACTION_CODES


def test_the_reasons_are_those_of_the_message() -> None:
    known = get_args(PaymentFailed.model_fields["reason"].annotation)
    assert set(get_args(DeclineReason)) == set(known)


@given(SCHEDULES, LATER, st.sampled_from(["hard", "needs_action"]))
def test_only_soft_declines_are_attempted_again(days: list[int], declined_at: list[datetime], kind: str) -> None:
    assert next_attempt_at(days, Decline(kind, "x"), declined_at) is None  # type: ignore[arg-type]


@given(SCHEDULES)
def test_attempts_that_are_made_in_time_are_on_the_days_of_the_schedule(days: list[int]) -> None:
    declined_at = [FIRST]
    while (due_at := next_attempt_at(days, SOFT, declined_at)) is not None:
        declined_at.append(due_at)
    assert [at - FIRST for at in declined_at[1:]] == [timedelta(days=day) for day in days]


@given(SCHEDULES, LATER)
def test_a_late_attempt_moves_no_later_one_and_none_is_due_in_the_past(
    days: list[int], declined_at: list[datetime]
) -> None:
    due_at = next_attempt_at(days, SOFT, declined_at)
    assert (due_at is None) == (len(declined_at) > len(days))
    if due_at is not None:
        assert due_at in {FIRST + timedelta(days=days[len(declined_at) - 1]), declined_at[-1]}
        assert due_at >= declined_at[-1]


@pytest.mark.parametrize("days", [(0, 1), (-1,), (1, 1), (3, 1), (366,), (0.5,)])
def test_days_that_do_not_increase_are_refused(days: tuple[float, ...]) -> None:
    with pytest.raises(ValidationError) as caught:
        PaymentSettings(dunning_days=days)
    assert caught.value.errors()[0]["loc"][0] == "dunning_days"
    assert PaymentSettings(dunning_days=()).dunning_days == ()
