"""An in-memory Stripe account: PaymentIntents (each captured at most once), refunds and idempotency keys."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

StripeResponse = tuple[int, dict[str, Any]]
"""HTTP status and JSON body."""

DECLINED_CARDS: Mapping[str, tuple[str, str]] = {
    "pm_card_visa_chargeDeclined": ("card_declined", "generic_decline"),
    "pm_card_visa_chargeDeclinedInsufficientFunds": ("card_declined", "insufficient_funds"),
    "pm_card_visa_chargeDeclinedLostCard": ("card_declined", "lost_card"),
    "pm_card_visa_chargeDeclinedStolenCard": ("card_declined", "stolen_card"),
    "pm_card_chargeDeclinedExpiredCard": ("expired_card", "expired_card"),
    "pm_card_chargeDeclinedProcessingError": ("processing_error", "processing_error"),
    "pm_card_authenticationRequired": ("authentication_required", "authentication_required"),
}
"""Stripe's test cards (https://docs.stripe.com/testing) that are declined: code and decline code. All others succeed."""
DELETED_METHODS = frozenset({"pm_deleted"})
"""Payment methods that the account does not know any more."""
THREE_DECIMALS = frozenset(("bhd", "jod", "kwd", "omr", "tnd"))
TWO_DECIMALS_OF_ZERO = frozenset(("isk", "ugx"))
CURRENCIES = frozenset((
    "aed", "ars", "aud", "bgn", "brl", "cad", "chf", "clp", "cny", "cop", "czk", "dkk", "egp", "eur", "gbp", "hkd", "huf",
    "idr", "ils", "inr", "jpy", "kes", "krw", "mad", "mga", "mxn", "myr", "ngn", "nok", "nzd", "pen", "php", "pkr", "pln",
    "qar", "ron", "rsd", "sar", "sek", "sgd", "thb", "try", "twd", "uah", "usd", "uyu", "vnd", "xaf", "xof", "xpf", "zar",
    *THREE_DECIMALS, *TWO_DECIMALS_OF_ZERO,
))  # fmt: skip
"""Of Stripe's more than 135 currencies, those that a test may use."""
MINIMUM_AMOUNTS: Mapping[str, int] = {
    **dict.fromkeys(("usd", "eur", "chf", "cad", "aud", "sgd", "nzd", "brl", "inr"), 50), "gbp": 30, "jpy": 50,
    "dkk": 250, "nok": 300, "sek": 300, "huf": 17500, "mxn": 1000, "pln": 200, "czk": 1500, "aed": 200, "thb": 1000,
}  # fmt: skip
"""In Stripe's units (https://docs.stripe.com/currencies, minimum and maximum charge amounts)."""
MAX_AMOUNT = 99_999_999
_SEARCH_QUERY = re.compile(r'metadata\["((?:[^"\\]|\\.)*)"\]:"((?:[^"\\]|\\.)*)"')


@dataclass
class Intent:
    """One PaymentIntent."""

    id: str
    amount: int
    currency: str
    metadata: dict[str, str]
    customer: str | None
    description: str
    created: int = field(default_factory=lambda: int(time.time()))
    status: str = "requires_payment_method"
    error: dict[str, Any] | None = None
    received: int = 0
    refunded: int = 0

    def as_json(self, *, with_charge: bool = False) -> dict[str, Any]:
        """As Stripe returns it; `with_charge` expands the charge."""
        charge: str | dict[str, Any] | None = f"ch_{self.id[3:]}" if self.status == "succeeded" else None
        if with_charge and charge is not None:
            charge = {"id": charge, "object": "charge", "amount": self.received, "amount_refunded": self.refunded}
        return {
            "id": self.id, "object": "payment_intent", "amount": self.amount, "currency": self.currency,
            "amount_received": self.received, "customer": self.customer,
            "metadata": self.metadata, "description": self.description, "created": self.created, "livemode": False,
            "status": self.status, "last_payment_error": self.error,
            "latest_charge": charge,
        }  # fmt: skip


class StripeError(Exception):
    """An error response."""

    def __init__(self, status: int, kind: str, code: str | None, message: str, **more: Any) -> None:
        super().__init__(message)
        error = {"type": kind, "code": code, "message": message, **more}
        self.response: StripeResponse = (
            status,
            {"error": {name: value for name, value in error.items() if value is not None}},
        )


def invalid_request(code: str | None, message: str, status: int = 400) -> StripeError:
    """Stripe's error for an invalid request."""
    return StripeError(status, "invalid_request_error", code, message)


class StripeAccount:
    """One account: intents, refunds, and stored responses by idempotency key."""

    def __init__(self) -> None:
        self._intents: dict[str, Intent] = {}
        self._refunds: list[dict[str, Any]] = []
        self._responses: dict[str, tuple[tuple[str, Any], StripeResponse]] = {}

    def run_idempotent(
        self, key: str | None, request: tuple[str, Any], execute: Callable[[], dict[str, Any]]
    ) -> StripeResponse:
        """Execute the request, or return the stored response of the same key; errors are stored too."""
        if key is not None and key in self._responses:
            earlier, response = self._responses[key]
            if earlier != request:
                text = f"Keys for idempotent requests can only be used with the same parameters: {key}"
                return StripeError(400, "idempotency_error", None, text).response
            return response
        try:
            response = 200, execute()
        except StripeError as exc:
            response = exc.response
        if key is not None:
            self._responses[key] = request, response
        return response

    def clear_idempotency_keys(self) -> int:
        """Delete all keys, as Stripe does after a day; returns how many there were."""
        count = len(self._responses)
        self._responses.clear()
        return count

    def reset(self) -> None:
        """Delete all payments, refunds and keys."""
        self._intents.clear()
        self._refunds.clear()
        self._responses.clear()

    def create(self, form: Mapping[str, str]) -> dict[str, Any]:
        """Create an intent; nothing is charged yet."""
        amount, currency = form.get("amount", ""), form.get("currency", "")
        if not amount.isdecimal() or int(amount) < 1:
            raise invalid_request("parameter_invalid_integer", f"Invalid integer: {amount}")
        if not re.fullmatch("[a-z]{3}", currency):
            raise invalid_request("parameter_missing", "Missing required param: currency.")
        _require_amount(int(amount), currency)
        if int(amount) > MAX_AMOUNT:
            raise invalid_request("amount_too_large", f"Amount must be no more than {MAX_AMOUNT}.")
        if int(amount) < MINIMUM_AMOUNTS.get(currency, 1):
            raise invalid_request(
                "amount_too_small", "The amount must be greater than or equal to the minimum charge amount."
            )
        made = Intent(
            f"pi_{secrets.token_hex(12)}", int(amount), currency, _metadata(form), form.get("customer"),
            form.get("description", ""),
        )  # fmt: skip
        self._intents[made.id] = made
        return made.as_json()

    def get(self, intent_id: str) -> Intent:
        """The intent with this id; raises StripeError if there is none."""
        found = self._intents.get(intent_id)
        if found is None:
            raise invalid_request("resource_missing", f"No such payment_intent: '{intent_id}'", 404)
        return found

    def list_intents(self, since: int = 0, before: int = 2**53) -> list[Intent]:
        """Intents created in a range of seconds since 1970, newest first."""
        return [one for one in reversed(self._intents.values()) if since <= one.created < before]

    def search(self, query: str) -> list[Intent]:
        """Intents by one metadata field; raises StripeError for any other query."""
        match = _SEARCH_QUERY.fullmatch(query.strip())
        if match is None:
            raise invalid_request(None, 'The sandbox can search by metadata["..."]:"..." only')
        name, value = (re.sub(r"\\(.)", r"\1", part) for part in match.groups())
        return [one for one in self.list_intents() if one.metadata.get(name) == value]

    def confirm(self, intent_id: str, form: Mapping[str, str]) -> dict[str, Any]:
        """Charge the payment method, once."""
        intent = self.get(intent_id)
        if intent.status in ("succeeded", "canceled"):
            raise self._unexpected_state(intent, "confirm")
        method = form.get("payment_method", "")
        if not method:
            raise invalid_request(
                "payment_intent_unexpected_state", "You cannot confirm this PaymentIntent without a payment method."
            )
        if method in DECLINED_CARDS:
            code, decline = DECLINED_CARDS[method]
            intent.status = "requires_payment_method"
            intent.error = {
                "type": "card_error",
                "code": code,
                "decline_code": decline,
                "message": "Your card was declined.",
            }
            raise StripeError(
                402,
                "card_error",
                code,
                "Your card was declined.",
                decline_code=decline,
                payment_intent=intent.as_json(),
            )
        if method in DELETED_METHODS:
            raise invalid_request("resource_missing", f"No such PaymentMethod: '{method}'")
        intent.status, intent.error, intent.received = "succeeded", None, intent.amount
        return intent.as_json()

    def capture_part(self, intent_id: str, amount: int) -> dict[str, Any]:
        """Capture a part of the amount, as somebody can in the dashboard."""
        intent = self.get(intent_id)
        if intent.status in ("succeeded", "canceled") or not 0 < amount < intent.amount:
            raise self._unexpected_state(intent, "capture")
        intent.status, intent.error, intent.received = "succeeded", None, amount
        return intent.as_json()

    def cancel(self, intent_id: str) -> dict[str, Any]:
        """Cancel the intent; raises StripeError if it was captured."""
        intent = self.get(intent_id)
        if intent.status in ("succeeded", "canceled"):
            raise self._unexpected_state(intent, "cancel")
        intent.status = "canceled"
        return intent.as_json()

    def refund(self, form: Mapping[str, str]) -> dict[str, Any]:
        """Refund an amount, at most what was captured."""
        intent = self.get(form.get("payment_intent", ""))
        if intent.status != "succeeded":
            raise invalid_request(
                "charge_not_captured", f"This PaymentIntent ({intent.id}) does not have a successful charge to refund."
            )
        if intent.refunded == intent.received:
            raise invalid_request("charge_already_refunded", f"Charge ch_{intent.id[3:]} has already been refunded.")
        amount = int(form.get("amount") or intent.received - intent.refunded)
        if amount <= 0:
            raise invalid_request("parameter_invalid_integer", "This value must be greater than or equal to 1.")
        _require_amount(amount, intent.currency)
        if amount > intent.received - intent.refunded:
            raise invalid_request("amount_too_large", "Refund amount is greater than unrefunded amount on charge.")
        intent.refunded += amount
        made = {
            "id": f"re_{secrets.token_hex(12)}", "object": "refund", "amount": amount, "currency": intent.currency,
            "payment_intent": intent.id, "metadata": _metadata(form), "status": "succeeded", "created": int(time.time()),
        }  # fmt: skip
        self._refunds.append(made)
        return made

    def list_refunds(self, intent_id: str) -> list[dict[str, Any]]:
        """Refunds of one intent, or of all if the id is empty, newest first."""
        return [one for one in reversed(self._refunds) if intent_id in ("", one["payment_intent"])]

    @staticmethod
    def _unexpected_state(intent: Intent, action: str) -> StripeError:
        text = f"You cannot {action} this PaymentIntent because it has a status of {intent.status}."
        return StripeError(
            400, "invalid_request_error", "payment_intent_unexpected_state", text, payment_intent=intent.as_json()
        )


def _require_amount(amount: int, currency: str) -> None:
    """Refuse an amount that Stripe refuses (https://docs.stripe.com/currencies, three-decimal and special cases)."""
    if currency not in CURRENCIES:
        raise invalid_request("currency_not_supported", f"Invalid currency: {currency}.")
    if (currency in THREE_DECIMALS and amount % 10) or (currency in TWO_DECIMALS_OF_ZERO and amount % 100):
        raise invalid_request(
            "invalid_charge_amount", f"Invalid amount: {amount} {currency} has decimals that are not 0."
        )


def _metadata(form: Mapping[str, str]) -> dict[str, str]:
    return {name[9:-1]: value for name, value in form.items() if name.startswith("metadata[") and name.endswith("]")}
