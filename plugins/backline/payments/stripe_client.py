"""Stripe: one PaymentIntent an order, confirmed once a try.

A PaymentIntent is captured once at most, and it is made with the order's idempotency key, so an order has one. Stripe keeps
such keys for a day at least; after that an intent whose id was lost is found by its metadata
(https://docs.stripe.com/api/idempotent_requests, https://docs.stripe.com/payments/payment-intents).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from backline.channels.http.gateway import HttpGateway
from backline.errors import (
    AuthenticationFailed,
    Misconfigured,
    NetworkFailure,
    RateLimited,
    Rejected,
    TimeoutFailure,
    UnknownFailure,
)
from backline.payments.declines import CANCELLED, Decline, classify
from backline.payments.provider import PAYMENT_STATES, ChargeRequest, ChargeResult, ProviderPayment

if TYPE_CHECKING:
    import stripe

PAYMENT_KEY_METADATA = "backline_payment"
"""Metadata of ours: the payment's key."""
REFUND_KEY_METADATA = "backline_refund"
PAGE_SIZE = 100


class StripeProvider:
    """Payments by Stripe's API, or by what speaks it."""

    name = "stripe"

    def __init__(self, gateway: HttpGateway, timeout_seconds: float) -> None:
        """The gateway's password is the API key; Misconfigured without one."""
        import stripe

        if not gateway.password:
            raise Misconfigured(f"connection {gateway.name!r} needs a password: Stripe's secret API key")
        self._connection = gateway.name
        self._client = stripe.StripeClient(
            gateway.password,
            base_addresses={"api": gateway.url},
            http_client=stripe.RequestsClient(
                timeout=timeout_seconds, verify_ssl_certs=gateway.verify_tls, proxy=gateway.proxy
            ),
            max_network_retries=0,  # a try that fails is made again by the job, which keeps count
        )

    def charge(self, request: ChargeRequest) -> ChargeResult:
        """Confirm the order's intent, unless it is captured; see `Provider.charge`."""
        import stripe

        with self._translate_errors():
            intent = self._get_or_create_intent(request)
            if intent.status in ("succeeded", "canceled"):
                return _charge_result(intent)
            if intent.status == "processing":
                raise UnknownFailure(f"Stripe is still working on the payment of order {request.order_number}")
            try:
                intent = self._client.v1.payment_intents.confirm(
                    intent.id,
                    {"payment_method": request.method or "", "off_session": True},
                    {"idempotency_key": f"{request.idempotency_key}-try-{request.attempt}"},
                )
            except stripe.CardError as exc:
                return _declined_result(intent.id, _decline_of(exc))
            except stripe.InvalidRequestError as exc:
                if exc.code != "payment_intent_unexpected_state":
                    raise
                intent = self._client.v1.payment_intents.retrieve(intent.id)  # captured or cancelled meanwhile
            except stripe.IdempotencyError:
                # This try was made with another card. Either it went well, or it is over: the next one has the new card.
                intent = self._client.v1.payment_intents.retrieve(intent.id)
                if intent.status != "succeeded":
                    raise
            return _charge_result(intent)

    def get_status(self, request: ChargeRequest) -> ChargeResult:
        """See `Provider.look`."""
        with self._translate_errors():
            return _charge_result(self._get_or_create_intent(request))

    def cancel(self, request: ChargeRequest) -> ChargeResult:
        """See `Provider.cancel`."""
        import stripe

        with self._translate_errors():
            intent = self._get_or_create_intent(request)
            if intent.status not in ("succeeded", "canceled"):
                try:
                    intent = self._client.v1.payment_intents.cancel(
                        intent.id,
                        {"cancellation_reason": "abandoned"},
                        {"idempotency_key": f"{request.idempotency_key}-cancel"},
                    )
                except stripe.InvalidRequestError as exc:
                    if exc.code != "payment_intent_unexpected_state":
                        raise
                    intent = self._client.v1.payment_intents.retrieve(intent.id)
            stands = _charge_result(intent)
            if stands.state not in ("captured", "cancelled"):
                raise UnknownFailure(f"Stripe is still working on the payment of order {request.order_number}")
            return stands

    def refund(self, reference: str, amount_minor: int, key: str) -> str:
        """See `Provider.refund`. A refund that Stripe has made before by this key is found, also after its key's day."""
        import stripe

        with self._translate_errors():
            try:
                made = self._client.v1.refunds.create(
                    {"payment_intent": reference, "amount": amount_minor, "metadata": {REFUND_KEY_METADATA: key}},
                    {"idempotency_key": key},
                )
            except stripe.InvalidRequestError as exc:
                if exc.code != "charge_already_refunded":
                    raise
                earlier = self._client.v1.refunds.list({"payment_intent": reference, "limit": PAGE_SIZE})
                found = next(
                    (one for one in earlier.auto_paging_iter() if _metadata(one).get(REFUND_KEY_METADATA) == key), None
                )
                if found is None:
                    raise
                made = found
        if made.status in ("failed", "canceled"):
            raise Rejected(f"Stripe will not give back {reference}: its refund {made.id} is {made.status}")
        return made.id

    def list_payments(self, since: datetime, until: datetime) -> Iterator[ProviderPayment]:
        """The intents made in [since, until), newest first, as Stripe pages them."""
        with self._translate_errors():
            pages = self._client.v1.payment_intents.list(
                {
                    "created": {"gte": int(since.timestamp()), "lt": int(until.timestamp())},
                    "limit": PAGE_SIZE,
                    "expand": ["data.latest_charge"],  # it knows what was given back
                }
            )
            for intent in pages.auto_paging_iter():
                yield _provider_payment(intent)

    def _get_or_create_intent(self, request: ChargeRequest) -> stripe.PaymentIntent:
        """The order's intent: by its id, by its metadata, or made."""
        import stripe

        intents = self._client.v1.payment_intents
        if request.reference is not None:
            try:
                return intents.retrieve(request.reference)
            except stripe.InvalidRequestError as exc:
                if exc.code != "resource_missing":
                    raise
                if request.is_resumed:  # it may be captured in another account: another one could charge twice
                    raise Misconfigured(
                        f"Stripe does not know {request.reference}: connection {self._connection!r} leads to another account "
                        f"than the one that order {request.order_number} was charged by; point it back"
                    ) from exc
        elif request.is_resumed and (found := self._find_intent(request.idempotency_key)) is not None:
            return found
        params: dict[str, Any] = {
            "amount": request.amount_minor,
            "currency": request.currency.lower(),
            "description": f"Order {request.order_number}",
            "metadata": {PAYMENT_KEY_METADATA: request.idempotency_key, "order_id": str(request.order_id)},
            "payment_method_types": ["card"],
        }
        if request.customer:
            params["customer"] = request.customer
        try:
            return intents.create(params, {"idempotency_key": request.idempotency_key})  # type: ignore[arg-type]
        except stripe.IdempotencyError:  # it was made before the customer's own id was known, or another one was
            made = self._find_intent(request.idempotency_key)
            if made is None or (made.amount, made.currency) != (params["amount"], params["currency"]):
                raise
            return made

    def _find_intent(self, key: str) -> stripe.PaymentIntent | None:
        """The intent with our key in its metadata. Stripe finds a new one after a minute at most."""
        escaped = key.replace("\\", "\\\\").replace('"', '\\"')
        query = f'metadata["{PAYMENT_KEY_METADATA}"]:"{escaped}"'
        found = self._client.v1.payment_intents.search({"query": query, "limit": 1}).data
        return found[0] if found else None

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        """Our errors for Stripe's. Its own texts are for people and mask the key; they are cut nevertheless."""
        import stripe

        try:
            yield
        except stripe.APIConnectionError as exc:
            kind = TimeoutFailure if "timed out" in str(exc).lower() else NetworkFailure
            raise kind(f"connection {self._connection!r}: Stripe cannot be reached") from exc
        except stripe.RateLimitError as exc:
            raise RateLimited("Stripe asks to slow down", code="429") from exc
        except (stripe.AuthenticationError, stripe.PermissionError) as exc:
            raise AuthenticationFailed(
                f"connection {self._connection!r}: Stripe refuses its password, the API key", code=str(exc.http_status)
            ) from exc
        except stripe.StripeError as exc:
            status = exc.http_status or 0
            said = f"Stripe answered {status}: {(exc.user_message or type(exc).__name__)[:300]}"
            if status in (409, 425) or status >= 500 or status < 400:  # 409: the same request is being worked on
                raise UnknownFailure(said, code=str(status)) from exc
            raise Rejected(said, code=exc.code or str(status)) from exc


def _charge_result(intent: stripe.PaymentIntent) -> ChargeResult:
    match intent.status:
        case "succeeded":
            return ChargeResult(intent.id, "captured")
        case "canceled":
            return ChargeResult(intent.id, "cancelled", CANCELLED)
        case "requires_action":
            return ChargeResult(intent.id, "requires_action", Decline("needs_action", "authentication_required"))
    error = intent.last_payment_error
    if error is None:
        return ChargeResult(intent.id, "untried")
    return _declined_result(intent.id, classify((getattr(error, "decline_code", None), getattr(error, "code", None))))


def _provider_payment(intent: stripe.PaymentIntent) -> ProviderPayment:
    order = _metadata(intent).get("order_id", "")
    return ProviderPayment(
        reference=intent.id,
        amount_minor=intent.amount,
        currency=intent.currency.upper(),
        state=PAYMENT_STATES[intent.status],
        created_at=datetime.fromtimestamp(intent.created, UTC),
        refunded_minor=getattr(intent.latest_charge, "amount_refunded", 0),
        order_id=int(order) if order.isdecimal() else None,
    )


def _declined_result(reference: str, decline: Decline) -> ChargeResult:
    return ChargeResult(reference, "requires_action" if decline.kind == "needs_action" else "declined", decline)


def _decline_of(exc: stripe.CardError) -> Decline:
    error = exc.error
    return classify((getattr(error, "decline_code", None), exc.code))


def _metadata(thing: Any) -> dict[str, str]:
    found = thing.metadata
    return {} if found is None else {str(name): str(value) for name, value in found.to_dict().items()}
