from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backline.messages.types.commerce import PaymentFailed
from backline.payments.declines import (
    HARD_CODES,
    NEEDS_ACTION_CODES,
    Decline,
    DeclineReason,
    classify,
    retry_delay_hours,
)

SCHEDULES = st.lists(st.floats(0.1, 1000), max_size=8)


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


@given(SCHEDULES, st.integers(-1, 20), st.sampled_from(["hard", "needs_action"]))
def test_only_soft_declines_are_attempted_again(schedule: list[float], attempts: int, kind: str) -> None:
    assert retry_delay_hours(schedule, Decline(kind, "x"), attempts) is None  # type: ignore[arg-type]


@given(SCHEDULES)
def test_attempts_stop_after_the_schedule(schedule: list[float]) -> None:
    delays = [retry_delay_hours(schedule, Decline("soft", "x"), attempts) for attempts in range(1, len(schedule) + 3)]
    assert delays == [*schedule, None, None]
