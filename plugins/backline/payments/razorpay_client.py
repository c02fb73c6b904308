"""Razorpay: reads and refunds payments, which its customers make at the checkout or which it charges for a subscription.

https://razorpay.com/docs/api/payments/, https://razorpay.com/docs/api/refunds/.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal

import razorpay
import requests
from razorpay.errors import BadRequestError, GatewayError, ServerError

from backline.channels.http import HttpGateway
from backline.errors import (
    AuthenticationFailed,
    InvalidInput,
    Misconfigured,
    NetworkFailure,
    Rejected,
    TimeoutFailure,
    UnknownFailure,
)
from backline.money import Money
from backline.payments.declines import CANCELLED, Decline, classify
from backline.payments.provider import (
    PAYMENT_STATES,
    RAZORPAY_REFUND_STATES,
    REFUND_KEY_METADATA,
    ChargeRequest,
    ChargeResult,
    ProviderPayment,
    ProviderRefund,
)
from backline.payments.provider_units import RAZORPAY_UNITS

PAGE_SIZE = 100
MAX_PAGES = 1_000
_STATES: Mapping[str, Literal["captured", "declined", "requires_action"]] = {
    "captured": "captured", "refunded": "captured", "failed": "declined"
}  # fmt: skip


class RazorpayProvider:
    """Payments by Razorpay's API, or by a server that implements it."""

    name = "razorpay"

    def __init__(self, gateway: HttpGateway, timeout_seconds: float) -> None:
        """The gateway's login is the key's id and its password the key's secret; Misconfigured without them."""
        if not gateway.login or not gateway.password:
            raise Misconfigured(
                f"connection {gateway.name!r} needs a login and a password: Razorpay's key id and secret"
            )
        self._connection = gateway.name
        session = requests.Session()
        session.request = partial(session.request, timeout=timeout_seconds)  # type: ignore[method-assign]
        if gateway.proxy:
            session.proxies = {"http": gateway.proxy, "https": gateway.proxy}
        self._client = razorpay.Client(session, (gateway.login, gateway.password), base_url=gateway.url)

    def charge(self, request: ChargeRequest) -> ChargeResult:
        """The payment's state: a customer pays at Razorpay's checkout, and Backline cannot charge."""
        return self.get_status(request)

    def get_status(self, request: ChargeRequest) -> ChargeResult:
        """See `Provider.get_status`."""
        reference = request.payment.provider_reference
        if reference is None:
            return ChargeResult("", "requires_action", Decline("needs_action", "payment_method_missing"))
        with self._translate_errors():
            payment = self._client.payment.fetch(reference)
            return _charge_result(payment)

    def cancel(self, request: ChargeRequest) -> ChargeResult:
        """See `Provider.cancel`. Razorpay returns authorized money by itself if nobody captures it."""
        found = self.get_status(request)
        return found if found.state == "captured" else ChargeResult(found.reference, "cancelled", CANCELLED)

    def refund(self, reference: str, amount: Money, key: str) -> ProviderRefund:
        """See `Provider.refund`. An earlier refund with this key is found by its notes."""
        found = next((each for each in self.list_refunds(reference) if each.key == key), None)
        if found is None:
            content = {
                "amount": RAZORPAY_UNITS.from_money(amount), "speed": "normal", "receipt": key[-40:],
                "notes": {REFUND_KEY_METADATA: key},
            }  # fmt: skip
            with self._translate_errors():
                found = _provider_refund(self._client.payment.refund(reference, content))
        if found.state == "failed":
            raise Rejected(f"Razorpay refused to refund {reference}: refund {found.reference} failed")
        return found

    def list_refunds(self, reference: str) -> list[ProviderRefund]:
        """See `Provider.list_refunds`."""
        with self._translate_errors():
            return [
                _provider_refund(each) for each in self._pages(self._client.payment.fetch_multiple_refund, reference)
            ]

    def list_payments(self, since: datetime, until: datetime) -> Iterator[ProviderPayment]:
        """The payments created in [since, until), newest first."""
        period = {"from": int(since.timestamp()), "to": int(until.timestamp()) - 1}
        with self._translate_errors():
            for payment in self._pages(self._client.payment.all, **period):
                yield _provider_payment(payment)

    @staticmethod
    def _pages(fetch: Any, *arguments: str, **query: int) -> Iterator[dict[str, Any]]:
        for page in range(MAX_PAGES):
            found = fetch(*arguments, {**query, "count": PAGE_SIZE, "skip": page * PAGE_SIZE})["items"]
            yield from found
            if len(found) < PAGE_SIZE:
                return

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except requests.Timeout as exc:
            raise TimeoutFailure(f"connection {self._connection!r}: Razorpay did not answer in time") from exc
        except requests.exceptions.JSONDecodeError as exc:
            raise UnknownFailure("Razorpay's answer is not JSON") from exc
        except requests.RequestException as exc:
            raise NetworkFailure(f"connection {self._connection!r}: Razorpay cannot be reached") from exc
        except BadRequestError as exc:
            text = str(exc)[:300]
            if "authentication" in text.lower() or "api key" in text.lower():
                raise AuthenticationFailed(
                    f"connection {self._connection!r}: Razorpay refuses its login and password"
                ) from exc
            raise Rejected(f"Razorpay refused: {text}", code="bad_request_error") from exc
        except (GatewayError, ServerError) as exc:
            raise UnknownFailure(f"Razorpay failed: {str(exc)[:300]}") from exc
        except (KeyError, TypeError, InvalidInput) as exc:
            raise UnknownFailure(f"Razorpay's answer cannot be read: {type(exc).__name__}") from exc


def _charge_result(payment: Mapping[str, Any]) -> ChargeResult:
    state = _STATES.get(payment["status"], "requires_action")
    if state == "captured":
        amount = RAZORPAY_UNITS.to_money(payment["amount"], payment["currency"])
        return ChargeResult(payment["id"], state, captured=amount)
    if state == "declined":
        return ChargeResult(payment["id"], state, classify((payment.get("error_reason"), payment.get("error_code"))))
    return ChargeResult(payment["id"], state, Decline("needs_action", f"payment_{payment['status']}"[:80]))


def _provider_refund(refund: Mapping[str, Any]) -> ProviderRefund:
    notes = refund.get("notes")
    return ProviderRefund(
        refund["id"], RAZORPAY_UNITS.to_money(refund["amount"], refund["currency"]),
        RAZORPAY_REFUND_STATES.get(refund["status"], "pending"),
        str(notes[REFUND_KEY_METADATA]) if isinstance(notes, dict) and REFUND_KEY_METADATA in notes else None,
    )  # fmt: skip


def _provider_payment(payment: Mapping[str, Any]) -> ProviderPayment:
    amount = RAZORPAY_UNITS.to_money(payment["amount"], payment["currency"])
    refunded = RAZORPAY_UNITS.to_money(payment.get("amount_refunded") or 0, payment["currency"])
    notes = payment.get("notes")
    order = str(notes.get("order_id", "")) if isinstance(notes, dict) else ""
    return ProviderPayment(
        reference=payment["id"],
        amount_minor=amount.minor,
        currency=amount.currency,
        state=PAYMENT_STATES[payment["status"]],
        created_at=datetime.fromtimestamp(payment["created_at"], UTC),
        refunded_minor=refunded.minor,
        order_id=int(order) if order.isdecimal() else None,
    )
