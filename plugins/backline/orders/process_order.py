"""Advances an order from placed to confirmed, or compensates: validate, reserve, pay, confirm.

Each step is one transaction that names the state it starts from, so the order's state says which step is next: another run,
later or at the same time, continues from there. When a step is refused for good, the earlier ones are compensated in reverse:
the payment first, then the stock. A failure that may pass, such as an unavailable provider, refuses nothing.

    pending ── reserve ──> reserved ── pay ──> paid ── confirm ──> confirmed
       │                      │                  │
       └──────> cancelled <───┘ stock released   └──> refunded: payment refunded, then stock released
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import LiteralString, TypeVar

from backline.db.connect import Session, fetch
from backline.db.statements import statement
from backline.errors import BacklineError, InvalidInput, UnknownFailure
from backline.jobs.job import Job
from backline.orders import notifications
from backline.orders.repository import Order, OrderLine, StockDemand
from backline.orders.settings import OrderSettings
from backline.payments.charges import charge
from backline.payments.events import apply_waiting_events
from backline.payments.provider import Provider
from backline.payments.refunds import refund

Row = TypeVar("Row")
StepCallback = Callable[[str], None]
ProviderLookup = Callable[[str], Provider]
"""The payment provider of a name; NotConfigured without its connection."""
STEP_PROGRESS = {"validate": 0, "reserve": 20, "pay": 40, "confirm": 80, "refund": 90, "cancel": 95}
"""The steps, and the progress in percent at the start of each."""
RETRY_SCHEDULED = "the payment was declined and will be attempted again"
MAX_COMPENSATION_ATTEMPTS = 5
"""How often the compensation of an order that changes meanwhile is attempted before the run fails."""


class SagaOutcome(StrEnum):
    """The outcome of a run of the saga."""

    CONFIRMED = "confirmed"
    WAITING = "waiting"
    """For the customer, the next attempt of the payment, or the refund."""
    CANCELLED = "cancelled"
    REFUNDED = "refunded"
    NOTHING_TO_DO = "nothing_to_do"
    """The order was past all of the steps."""


@dataclass(frozen=True, slots=True)
class SagaResult:
    """The state of an order after a run."""

    order: str
    """Its number."""
    state: str
    outcome: SagaOutcome
    reason: str = ""
    unsent_messages: int = 0
    """Messages of this run that could not be enqueued; each has a dead letter."""


class _StepRejected(BacklineError):
    """A step is refused for good: the order is compensated. The text is for the customer."""


class _StepWaiting(BacklineError):
    """The next step waits for someone else, such as the customer."""


def process_order(job: Job[OrderSettings]) -> SagaResult:
    """Advance the order `order_id` as far as possible."""
    order_id = job.params.required("order_id", int)
    return run_saga(
        job.database, job.provider(), order_id, job.settings, lambda step: job.progress(STEP_PROGRESS[step], step),
        other_provider=job.provider,
    )  # fmt: skip


def run_saga(
    database: Session, provider: Provider, order_id: int, config: OrderSettings, on_step: StepCallback = lambda _: None, *,
    other_provider: ProviderLookup | None = None,
) -> SagaResult:  # fmt: skip
    """Advance an order as far as possible. `database` is in autocommit; `on_step` is called with each step of `STEP_PROGRESS`.

    `provider` charges. `other_provider` gives the one that an order was paid by, if it is another, to refund the order.

    InvalidInput if the order does not exist. Retryable errors, such as the payment provider's, leave the order in its
    state: another call continues from there.
    """
    return _Saga(database, provider, order_id, config, on_step, other_provider).run()


class _Saga:
    def __init__(
        self, database: Session, provider: Provider, order_id: int, config: OrderSettings, on_step: StepCallback,
        other_provider: ProviderLookup | None,
    ) -> None:  # fmt: skip
        self._database, self._provider, self._id = database, provider, order_id
        self._other_provider = other_provider
        self._config, self._on_step = config, on_step
        self._values = {"id": order_id, "payment_timeout_hours": config.payment_timeout_hours}
        self._unsent_messages = 0

    def run(self) -> SagaResult:
        steps = {"pending": self._reserve, "reserved": self._pay, "paid": self._confirm}
        moved = False
        if self._load_order().is_refunded:
            return self._compensate("its payment was refunded")
        while (step := steps.get((order := self._load_order()).state)) is not None:
            try:
                step(order)
            except _StepRejected as exc:
                return self._compensate(str(exc))
            except _StepWaiting as exc:
                return self._result(SagaOutcome.WAITING, str(exc))
            moved = True
        is_final = moved and order.state in ("confirmed", "cancelled", "refunded")
        return self._result(SagaOutcome(order.state) if is_final else SagaOutcome.NOTHING_TO_DO)

    # --- forward ------------------------------------------------------------------------------------

    def _reserve(self, order: Order) -> None:
        self._on_step("validate")
        self._check_deliverable(order)
        self._on_step("reserve")
        with self._database.transaction():
            if "pending" not in self._rows(statement("orders", "order_lock"), str):
                return
            demands = self._rows(statement("orders", "stock_lock"), StockDemand)
            if short := [demand.sku for demand in demands if demand.free < demand.wanted]:
                raise _StepRejected(f"not in stock: {', '.join(short[:5])}")
            self._rows(statement("orders", "order_reserve"), int)

    def _pay(self, order: Order) -> None:
        apply_waiting_events(self._database, self._id, datetime.now(UTC))
        order = self._load_order()
        if order.state != "reserved":
            return
        if order.is_payment_abandoned and not order.has_open_attempt:
            raise _StepRejected("the payment was declined")
        if order.is_retry_scheduled and not order.has_open_attempt:
            raise _StepWaiting(RETRY_SCHEDULED)
        if order.is_billed_by_provider:
            raise self._unpaid_error(order, "its subscription is charged by the provider itself")
        # Also when the payment is overdue or the customer must act: it may have been paid meanwhile.
        self._on_step("pay")
        outcome = charge(self._database, self._provider, self._id)
        self._unsent_messages += outcome.unsent_messages
        order = self._load_order()
        if outcome.state == "needs_action":
            raise self._unpaid_error(order, "the customer must confirm the payment")
        if outcome.state == "declined" and order.is_retry_scheduled:
            raise _StepWaiting(RETRY_SCHEDULED)
        if outcome.state == "declined":
            raise _StepRejected("the payment was declined")
        if order.state == "reserved":
            raise UnknownFailure(f"order {order.number} is not paid, but its payment is captured; check its rows")

    def _confirm(self, order: Order) -> None:
        if order.is_refunding:
            raise _StepRejected("its payment is being refunded")
        self._on_step("confirm")
        lines = self._check_deliverable(order)
        with self._database.transaction():
            if self._rows(statement("orders", "order_confirm"), int) and not order.was_notified:
                confirmation = notifications.confirmation_of(order, lines)
                self._unsent_messages += notifications.enqueue_confirmation(
                    self._database, confirmation, self._config.order_url
                )

    def _check_deliverable(self, order: Order) -> list[OrderLine]:
        """Check that the order can be delivered; returns its lines."""
        lines = self._rows(statement("orders", "order_lines"), OrderLine)
        if not lines:
            raise _StepRejected("it has no lines")
        if retired := [line.sku for line in lines if line.is_retired]:
            raise _StepRejected(f"no longer sold: {', '.join(retired[:5])}")
        if not order.can_be_notified:
            raise _StepRejected("the customer's account is closed")
        return lines

    def _unpaid_error(self, order: Order, reason: str) -> BacklineError:
        """Wait for someone else to pay, unless the time for that is over."""
        return _StepRejected("it was not paid in time") if order.is_payment_overdue else _StepWaiting(reason)

    # --- compensation -------------------------------------------------------------------------------

    def _compensate(self, reason: str) -> SagaResult:
        """Undo the steps in reverse, starting over if the order changes meanwhile."""
        for _ in range(MAX_COMPENSATION_ATTEMPTS):
            order = self._load_order()
            if order.state not in ("pending", "reserved", "paid") and not order.is_refunded:
                return self._result(SagaOutcome.NOTHING_TO_DO, reason)
            if order.has_payment:
                # Refunds what was captured, and closes an open payment at the provider.
                self._on_step("refund")
                refund(self._database, self._provider_of(order), self._id, reason)
            if order.state not in ("pending", "reserved"):
                if self._close(order, "refunded", reason) or self._load_order().state == "refunded":
                    return self._result(SagaOutcome.REFUNDED, reason)
                return self._result(SagaOutcome.WAITING, f"{reason}; the refund is pending")
            if self._close(order, "cancelled", reason):
                return self._result(SagaOutcome.CANCELLED, reason)
        raise UnknownFailure(
            f"order {order.number} cannot be cancelled ({reason}): check its rows in payments and payment_attempts"
        )

    def _provider_of(self, order: Order) -> Provider:
        name = order.payment_provider
        if name is None or name == self._provider.name or self._other_provider is None:
            return self._provider
        return self._other_provider(name)

    def _close(self, order: Order, state: str, reason: str) -> bool:
        """Move the order to its final state, release its stock and notify the customer; False if its rows do not allow it."""
        self._on_step("cancel")
        with self._database.transaction():
            self._rows(statement("orders", "order_lock"), str)
            self._rows(statement("orders", "payments_lock"), int)
            if state == "cancelled":
                done = bool(self._rows(statement("orders", "order_cancel"), int))
            else:
                done = bool(self._rows(statement("orders", "order_refund"), int))
            if done:
                self._unsent_messages += notifications.enqueue_status(
                    self._database, order, state, f"Reason: {reason}.", self._config.order_url
                )
        return done

    # --- reading ------------------------------------------------------------------------------------

    def _load_order(self) -> Order:
        orders = self._rows(statement("orders", "order_get"), Order)
        if not orders:
            raise InvalidInput("order_id", f"there is no order {self._id}; give an order's id, not its number")
        return orders[0]

    def _rows(self, sql: LiteralString, row: type[Row]) -> list[Row]:
        return fetch(self._database, sql, row, self._values)

    def _result(self, outcome: SagaOutcome, reason: str = "") -> SagaResult:
        order = self._load_order()
        return SagaResult(order.number, order.state, outcome, reason, self._unsent_messages)
