"""Stripe: one PaymentIntent for each payment, confirmed once for each attempt.

A PaymentIntent is captured at most once, and it is created with the payment's idempotency key, so a payment has only one.
Stripe keeps such keys for at least a day; after that an intent whose id was lost is found by its metadata
(https://docs.stripe.com/api/idempotent_requests, https://docs.stripe.com/payments/payment-intents).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import stripe

from backline.channels.http import HttpGateway
from backline.errors import (
    AuthenticationFailed,
    Misconfigured,
    NetworkFailure,
    PermanentError,
    RateLimited,
    Rejected,
    TimeoutFailure,
    UnknownFailure,
)
from backline.money import Money
from backline.payments.declines import CANCELLED, Decline, classify
from backline.payments.provider import (
    PAYMENT_KEY_METADATA,
    PAYMENT_STATES,
    REFUND_KEY_METADATA,
    STRIPE_REFUND_STATES,
    ChargeRequest,
    ChargeResult,
    ProviderPayment,
    ProviderRefund,
)
from backline.payments.provider_units import STRIPE_UNITS

PAGE_SIZE = 100


class StripeProvider:
    """Payments by Stripe's API, or by a server that implements it."""

    name = "stripe"

    def __init__(self, gateway: HttpGateway, timeout_seconds: float) -> None:
        """The gateway's password is the API key; Misconfigured without one."""
        if not gateway.password:
            raise Misconfigured(f"connection {gateway.name!r} needs a password: Stripe's secret API key")
        self._connection = gateway.name
        self._client = stripe.StripeClient(
            gateway.password,
            base_addresses={"api": gateway.url},
            http_client=stripe.RequestsClient(
                timeout=timeout_seconds, verify_ssl_certs=gateway.verify_tls, proxy=gateway.proxy
            ),
            max_network_retries=0,  # the job repeats failed attempts, and counts them
        )
        self._intents = self._client.v1.payment_intents

    def charge(self, request: ChargeRequest) -> ChargeResult:
        """Confirm the order's intent, unless it is captured; see `Provider.charge`."""
        with self._translate_errors():
            intent = self._get_or_create_intent(request)
            if intent.status in ("succeeded", "canceled"):
                return _charge_result(intent)
            if intent.status == "processing":
                raise UnknownFailure(f"Stripe is still working on the payment of order {request.order_number}")
            try:
                key = f"{request.payment.idempotency_key}-attempt-{request.attempt}"
                params: Any = {"payment_method": request.payment.method_reference or "", "off_session": True}
                intent = self._intents.confirm(intent.id, params, {"idempotency_key": key})
            except stripe.CardError as exc:
                return _declined_result(intent.id, exc.error)
            except stripe.InvalidRequestError as exc:
                if exc.code != "payment_intent_unexpected_state":
                    raise
                intent = self._intents.retrieve(intent.id)  # captured or cancelled meanwhile
            except stripe.IdempotencyError:
                # This attempt was made with another card. It succeeded or it is over; the next one uses the new card.
                intent = self._intents.retrieve(intent.id)
                if intent.status != "succeeded":
                    raise
            return _charge_result(intent)

    def get_status(self, request: ChargeRequest) -> ChargeResult:
        """See `Provider.get_status`."""
        with self._translate_errors():
            return _charge_result(self._get_or_create_intent(request))

    def cancel(self, request: ChargeRequest) -> ChargeResult:
        """See `Provider.cancel`."""
        with self._translate_errors():
            intent = self._get_or_create_intent(request)
            if intent.status not in ("succeeded", "canceled"):
                try:
                    key = f"{request.payment.idempotency_key}-cancel"
                    params: Any = {"cancellation_reason": "abandoned"}
                    intent = self._intents.cancel(intent.id, params, {"idempotency_key": key})
                except stripe.InvalidRequestError as exc:
                    if exc.code != "payment_intent_unexpected_state":
                        raise
                    intent = self._intents.retrieve(intent.id)
            result = _charge_result(intent)
            if result.state not in ("captured", "cancelled"):
                raise UnknownFailure(f"Stripe is still working on the payment of order {request.order_number}")
            return result

    def refund(self, reference: str, amount: Money, key: str) -> ProviderRefund:
        """See `Provider.refund`. An earlier refund with this key is found by its metadata, even after the key has expired."""
        with self._translate_errors():
            params: Any = {
                "payment_intent": reference, "amount": STRIPE_UNITS.from_money(amount),
                "metadata": {REFUND_KEY_METADATA: key},
            }  # fmt: skip
            try:
                refund = _provider_refund(self._client.v1.refunds.create(params, {"idempotency_key": key}))
            except stripe.InvalidRequestError as exc:
                if exc.code != "charge_already_refunded":
                    raise
                found = next((each for each in self.list_refunds(reference) if each.key == key), None)
                if found is None:
                    raise
                refund = found
        if refund.state == "failed":
            raise Rejected(f"Stripe refused to refund {reference}: refund {refund.reference} failed")
        return refund

    def list_refunds(self, reference: str) -> list[ProviderRefund]:
        """See `Provider.list_refunds`."""
        with self._translate_errors():
            found = self._client.v1.refunds.list({"payment_intent": reference, "limit": PAGE_SIZE})
            return [_provider_refund(each) for each in found.auto_paging_iter()]

    def list_payments(self, since: datetime, until: datetime) -> Iterator[ProviderPayment]:
        """The intents created in [since, until), newest first."""
        with self._translate_errors():
            params: Any = {
                "created": {"gte": int(since.timestamp()), "lt": int(until.timestamp())},
                "limit": PAGE_SIZE,
                "expand": ["data.latest_charge"],  # has the refunded amount
            }
            for intent in self._intents.list(params).auto_paging_iter():
                yield _provider_payment(intent)

    def _get_or_create_intent(self, request: ChargeRequest) -> stripe.PaymentIntent:
        """The payment's intent: found by its id or its metadata, else created."""
        payment = request.payment
        if payment.provider_reference is not None:
            try:
                return self._intents.retrieve(payment.provider_reference)
            except stripe.InvalidRequestError as exc:
                if exc.code != "resource_missing":
                    raise
                if request.is_resumed:  # it may be captured in another account: a new intent could charge twice
                    raise Misconfigured(
                        f"Stripe does not know {payment.provider_reference}: connection {self._connection!r} is for another account "
                        f"than the one that charged order {request.order_number}; set it back"
                    ) from exc
        elif request.is_resumed and (found := self._find_intent(payment.idempotency_key)) is not None:
            return found
        params: dict[str, Any] = {
            "amount": STRIPE_UNITS.from_money(payment.amount),
            "currency": payment.currency.lower(),
            "description": f"Order {request.order_number}",
            "metadata": {PAYMENT_KEY_METADATA: payment.idempotency_key, "order_id": str(payment.order_id)},
            "payment_method_types": ["card"],
        }
        if payment.customer_reference:
            params["customer"] = payment.customer_reference
        try:
            return self._intents.create(params, {"idempotency_key": payment.idempotency_key})  # type: ignore[arg-type]
        except stripe.IdempotencyError:  # it was created with another customer id, or before that was known
            found = self._find_intent(payment.idempotency_key)
            if found is None or (found.amount, found.currency) != (params["amount"], params["currency"]):
                raise
            return found

    def _find_intent(self, key: str) -> stripe.PaymentIntent | None:
        """The intent with our key in its metadata. Stripe indexes a new one within a minute."""
        escaped = key.replace("\\", "\\\\").replace('"', '\\"')
        query = f'metadata["{PAYMENT_KEY_METADATA}"]:"{escaped}"'
        found = self._intents.search({"query": query, "limit": 1}).data
        return found[0] if found else None

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """Raise our errors for Stripe's. Stripe masks the key in its texts; they are cut nevertheless."""
        try:
            yield
        except stripe.APIConnectionError as exc:
            kind = TimeoutFailure if "timed out" in str(exc).lower() else NetworkFailure
            raise kind(f"connection {self._connection!r}: Stripe cannot be reached") from exc
        except stripe.RateLimitError as exc:
            raise RateLimited("Stripe limits the rate of requests", code="429") from exc
        except (stripe.AuthenticationError, stripe.PermissionError) as exc:
            raise AuthenticationFailed(
                f"connection {self._connection!r}: Stripe refuses its password, the API key", code=str(exc.http_status)
            ) from exc
        except stripe.IdempotencyError as exc:  # the next attempt has another key
            raise PermanentError(f"Stripe answered {exc.http_status}: {(exc.user_message or '')[:300]}") from exc
        except stripe.StripeError as exc:
            status = exc.http_status or 0
            message = f"Stripe answered {status}: {(exc.user_message or type(exc).__name__)[:300]}"
            if status in (409, 425) or status >= 500 or status < 400:  # 409: the same request is being worked on
                raise UnknownFailure(message, code=str(status)) from exc
            raise Rejected(message, code=exc.code or str(status)) from exc


def _charge_result(intent: stripe.PaymentIntent) -> ChargeResult:
    match intent.status:
        case "succeeded":
            return ChargeResult(intent.id, "captured", captured=_captured(intent))
        case "canceled":
            return ChargeResult(intent.id, "cancelled", CANCELLED)
        case "requires_action":
            return ChargeResult(intent.id, "requires_action", Decline("needs_action", "authentication_required"))
    if intent.last_payment_error is None:
        return ChargeResult(intent.id, "not_attempted")
    return _declined_result(intent.id, intent.last_payment_error)


def _captured(intent: stripe.PaymentIntent) -> Money:
    """What an intent that succeeded has captured: less than its amount after a partial capture."""
    return STRIPE_UNITS.to_money(intent.amount_received, intent.currency)


def _provider_refund(refund: stripe.Refund) -> ProviderRefund:
    return ProviderRefund(
        refund.id, STRIPE_UNITS.to_money(refund.amount, refund.currency),
        STRIPE_REFUND_STATES.get(refund.status or "", "pending"), _metadata(refund).get(REFUND_KEY_METADATA),
    )  # fmt: skip


def _provider_payment(intent: stripe.PaymentIntent) -> ProviderPayment:
    order = _metadata(intent).get("order_id", "")
    amount = (
        _captured(intent) if intent.status == "succeeded" else STRIPE_UNITS.to_money(intent.amount, intent.currency)
    )
    refunded = STRIPE_UNITS.to_money(getattr(intent.latest_charge, "amount_refunded", 0), intent.currency)
    return ProviderPayment(
        reference=intent.id,
        amount_minor=amount.minor,
        currency=amount.currency,
        state=PAYMENT_STATES[intent.status],
        created_at=datetime.fromtimestamp(intent.created, UTC),
        refunded_minor=refunded.minor,
        order_id=int(order) if order.isdecimal() else None,
    )


def _declined_result(reference: str, error: object) -> ChargeResult:
    decline = classify((getattr(error, "decline_code", None), getattr(error, "code", None)))
    return ChargeResult(reference, "requires_action" if decline.kind == "needs_action" else "declined", decline)


def _metadata(stripe_object: stripe.PaymentIntent | stripe.Refund) -> dict[str, str]:
    found = stripe_object.metadata
    return {} if found is None else {str(name): str(value) for name, value in found.to_dict().items()}
