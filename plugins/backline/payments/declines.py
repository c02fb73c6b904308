"""Kinds of declines, the reasons that customers are given, and the delay before the next attempt.

| kind | means | next attempt |
|---|---|---|
| hard | this card or account will never pay | never |
| soft | it may pay later | by the dunning schedule |
| needs_action | the customer must act first | when they have |

Sources: Stripe's decline codes (https://docs.stripe.com/declines/codes) and Razorpay's error reasons
(https://razorpay.com/docs/errors/). An unknown code is soft: the schedule bounds the number of attempts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

DeclineKind = Literal["hard", "soft", "needs_action"]
DeclineReason = Literal[
    "card_declined", "card_expired", "insufficient_funds", "authentication_required", "provider_unavailable", "other"
]
"""The reasons of the message payment_failed."""
MAX_CODE_LENGTH = 80

HARD_CODES = frozenset({
    "account_closed", "card_not_supported", "currency_not_supported", "expired_card", "card_expired", "fraudulent",
    "highest_risk_level", "incorrect_address", "incorrect_cvc", "incorrect_number", "incorrect_zip", "invalid_account",
    "invalid_cvc", "invalid_expiry_month", "invalid_expiry_year", "invalid_number", "lost_card", "merchant_blacklist",
    "new_account_information_available", "not_permitted", "pickup_card", "restricted_card",
    "revocation_of_all_authorizations", "revocation_of_authorization", "security_violation", "service_not_allowed",
    "stolen_card", "stop_payment_order", "testmode_decline", "transaction_not_allowed", "payment_intent_canceled",
    "card_number_invalid", "card_lost_or_stolen", "invalid_vpa", "bank_account_invalid", "mandate_cancelled",
    "payment_risk_check_failed",
})  # fmt: skip
NEEDS_ACTION_CODES = frozenset({
    "authentication_required", "authentication_not_handled", "mobile_device_authentication_required",
    "offline_pin_required", "online_or_offline_pin_required", "payment_intent_authentication_failure",
    "payment_method_missing", "payment_cancelled", "authentication_failed", "incorrect_otp", "payment_timed_out",
})  # fmt: skip
REFUSED_AMOUNTS = frozenset({"amount_not_chargeable", "amount_too_small", "amount_too_large", "invalid_charge_amount"})
"""Codes of a refused request that no other card would change: the order cannot be paid."""
_CODES_BY_REASON: dict[DeclineReason, frozenset[str]] = {
    "card_expired": frozenset({"expired_card", "card_expired", "invalid_expiry_month", "invalid_expiry_year"}),
    "insufficient_funds": frozenset({
        "insufficient_funds", "card_velocity_exceeded", "withdrawal_count_limit_exceeded", "transaction_limit_exceeded",
    }),
    "provider_unavailable": frozenset({
        "processing_error", "issuer_not_available", "try_again_later", "gateway_technical_error", "bank_technical_error",
    }),
    "other": frozenset({"payment_method_missing", "payment_intent_canceled", *REFUSED_AMOUNTS}),
}  # fmt: skip
"""A stolen card is reported as declined: its holder must not learn more."""


@dataclass(frozen=True, slots=True)
class Decline:
    """A declined attempt. `code` is the provider's."""

    kind: DeclineKind
    code: str

    @property
    def reason(self) -> DeclineReason:
        """The reason in the message to the customer."""
        for reason, codes in _CODES_BY_REASON.items():
            if self.code in codes:
                return reason
        return "authentication_required" if self.kind == "needs_action" else "card_declined"


CANCELLED = Decline("hard", "payment_intent_canceled")
"""We or the provider cancelled the payment: a new one may pay the order."""


def classify(codes: Sequence[str | None]) -> Decline:
    """Classify a decline by the provider's codes, the most specific one first; None stands for a missing code."""
    given = [code[:MAX_CODE_LENGTH] for code in codes if code]
    for code in given:
        if code in NEEDS_ACTION_CODES:
            return Decline("needs_action", code)
        if code in HARD_CODES:
            return Decline("hard", code)
    return Decline("soft", given[0] if given else "unknown")


def classify_refusal(code: str | None) -> Decline:
    """Classify a request that the provider refuses as it is, such as one with a deleted card: the customer has to act.

    The exception are amounts, which the customer cannot change.
    """
    code = (code or "unknown")[:MAX_CODE_LENGTH]
    return Decline("hard" if code in REFUSED_AMOUNTS else "needs_action", code)


def next_attempt_at(days: Sequence[int], decline: Decline, declined_at: Sequence[datetime]) -> datetime | None:
    """When the next attempt is due, or None if there is none. Pure.

    `days`, of 24 hours, are counted from the first decline. `declined_at` has the times of all declines of the payment, in
    order; the last is `decline`, and the next attempt is never earlier. Only soft declines are attempted again.
    """
    if decline.kind != "soft" or not 1 <= len(declined_at) <= len(days):
        return None
    return max(declined_at[0] + timedelta(days=days[len(declined_at) - 1]), declined_at[-1])
