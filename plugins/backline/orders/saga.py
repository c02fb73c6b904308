"""An order from placed to confirmed, or taken back: validate, reserve, pay, confirm.

Each step is one transaction that names the state it comes from, so the order's own state says how far it is: whoever
runs it again, after a crash or beside another, goes on from there. What a step has done is taken back in reverse when a
later one is refused for good: the money first, then the stock. What may go well later (the provider is away) is no refusal.

    pending ── reserve ──> reserved ── pay ──> paid ── confirm ──> confirmed
       │                      │                  │
       └──────> cancelled <───┘ stock back       └──> refunded: money back, then stock back
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from backline.db.connect import Session
from backline.db.statements import statement
from backline.errors import BacklineError, InvalidInput, UnknownFailure
from backline.orders import notifications
from backline.orders.settings import OrderSettings
from backline.payments.charges import charge
from backline.payments.provider import Provider
from backline.payments.refunds import refund

Row = Mapping[str, Any]
StepCallback = Callable[[str], None]
STEP_PROGRESS = {"validate": 0, "reserve": 20, "pay": 40, "confirm": 80, "refund": 90, "cancel": 95}
"""Each thing that is done, and how far the order is then, in per cent."""
RETRY_SCHEDULED = "the payment was declined and is tried again"
MAX_COMPENSATION_ATTEMPTS = 5
"""How often an order that is taken back may turn out to have moved on before it is left to the next run."""


class SagaOutcome(StrEnum):
    """How a run of the saga has ended."""

    CONFIRMED = "confirmed"
    WAITING = "waiting"  # for the customer, for the next try of the payment, or for the money to be back
    CANCELLED = "cancelled"
    REFUNDED = "refunded"
    NOTHING_TO_DO = "nothing to do"  # it was past all of this


@dataclass(frozen=True, slots=True)
class SagaResult:
    """What became of an order."""

    order: str
    """Its number."""
    state: str
    outcome: SagaOutcome
    reason: str = ""

    def as_dict(self) -> dict[str, str]:
        """For the run's result."""
        return {"order": self.order, "state": self.state, "ended": self.outcome.value, "why": self.reason}


class _StepRejected(BacklineError):
    """A step cannot be taken, now or later: what was done is taken back. The text is for the customer."""


class _StepWaiting(BacklineError):
    """Nothing can be done until somebody else has done something."""


def run_saga(
    database: Session, provider: Provider, order_id: int, config: OrderSettings, on_step: StepCallback = lambda _: None
) -> SagaResult:
    """Move an order as far as it goes. `database` is in autocommit; `doing` hears what is done next, a key of `STEP_PROGRESS`.

    InvalidInput if there is no such order. Retryable errors, such as those of the payment provider, leave the order
    where it is: the same call goes on from there.
    """
    return _Saga(database, provider, order_id, config, on_step).run()


class _Saga:
    def __init__(
        self, database: Session, provider: Provider, order_id: int, config: OrderSettings, doing: StepCallback
    ) -> None:
        self._database, self._provider, self._id, self._config, self._on_step = (
            database, provider, order_id, config, doing,
        )  # fmt: skip

    def run(self) -> SagaResult:
        steps = {"pending": self._reserve, "reserved": self._pay, "paid": self._confirm}
        moved = False
        while (step := steps.get((order := self._load_order())["state"])) is not None:
            try:
                step(order)
            except _StepRejected as exc:
                return self._compensate(str(exc))
            except _StepWaiting as exc:
                return self._result(SagaOutcome.WAITING, str(exc))
            moved = True
        ended = {
            "confirmed": SagaOutcome.CONFIRMED,
            "cancelled": SagaOutcome.CANCELLED,
            "refunded": SagaOutcome.REFUNDED,
        }
        return self._result(
            ended.get(order["state"], SagaOutcome.NOTHING_TO_DO) if moved else SagaOutcome.NOTHING_TO_DO, ""
        )

    # --- forward ------------------------------------------------------------------------------------

    def _reserve(self, order: Row) -> None:
        self._on_step("validate")
        self._validate(order)
        self._on_step("reserve")
        with self._database.transaction():
            if not self._is_in_state("pending"):
                return
            short = [row["sku"] for row in self._fetch("stock_lock") if row["free"] < row["wanted"]]
            if short:
                raise _StepRejected(f"not in stock: {', '.join(short[:5])}")
            self._fetch("order_reserve")

    def _pay(self, order: Row) -> None:
        if order["is_payment_abandoned"] and not order["has_open_attempt"]:
            raise _StepRejected("the payment was declined")
        if order["is_retry_scheduled"] and not order["has_open_attempt"]:
            raise _StepWaiting(RETRY_SCHEDULED)
        if order["is_billed_by_provider"]:
            raise self._unpaid_error(order, "its subscription is charged by the provider itself")
        # Also when it is late, or the customer must act: it may have been paid meanwhile, and asking costs nothing.
        self._on_step("pay")
        outcome = charge(self._database, self._provider, self._id)
        order = self._load_order()
        if outcome.state == "needs_action":
            raise self._unpaid_error(order, "the customer must confirm the payment")
        if outcome.state == "declined":
            raise (
                _StepWaiting(RETRY_SCHEDULED)
                if order["is_retry_scheduled"]
                else _StepRejected("the payment was declined")
            )
        if order["state"] == "reserved":
            raise UnknownFailure(
                f"order {order['number']}: its payment is there, but the order is not paid: look at its rows"
            )

    def _confirm(self, order: Row) -> None:
        if order["is_refunding"]:
            raise _StepRejected("its payment is being refunded")
        self._on_step("confirm")
        lines = self._validate(order)
        with self._database.transaction():
            if self._fetch("order_confirm") and not order["was_notified"]:
                notifications.enqueue_confirmation(self._database, order, lines, self._config.order_url)

    def _validate(self, order: Row) -> list[Row]:
        """Whether the order can be served and its customer be told; returns its lines."""
        lines = self._fetch("order_lines")
        if not lines:
            raise _StepRejected("it has no lines")
        if gone := [line["sku"] for line in lines if line["is_retired"]]:
            raise _StepRejected(f"no longer sold: {', '.join(gone[:5])}")
        if not order["can_be_notified"]:
            raise _StepRejected("the customer's account is closed")
        try:
            notifications.build_confirmation(order, lines, self._config.order_url)
        except InvalidInput as exc:
            raise _StepRejected(f"it could not be confirmed: {exc}") from exc
        return lines

    def _unpaid_error(self, order: Row, waits: str) -> BacklineError:
        """Somebody else has to do something, and has so long for it."""
        return _StepRejected("it was not paid in time") if order["is_late"] else _StepWaiting(waits)

    # --- back ---------------------------------------------------------------------------------------

    def _compensate(self, why: str) -> SagaResult:
        """Undo in reverse what was done; whatever else happens to the order meanwhile is seen and heeded."""
        for _ in range(MAX_COMPENSATION_ATTEMPTS):
            order = self._load_order()
            if order["state"] not in ("pending", "reserved", "paid"):
                return self._result(SagaOutcome.NOTHING_TO_DO, why)
            if order["has_payment"]:
                # The money that came, and any that might still come: a payment that waits is closed at the provider.
                self._on_step("refund")
                refund(self._database, self._provider, self._id, why)
            if order["state"] != "paid":
                if self._cancel(order, why):
                    return self._result(SagaOutcome.CANCELLED, why)
            elif self._finish_refund(order, why):
                return self._result(SagaOutcome.REFUNDED, why)
            else:
                return self._result(SagaOutcome.WAITING, f"{why}; the money is on its way back")
        raise UnknownFailure(
            f"order {order['number']} is to be taken back ({why}), but neither its payment nor its state lets it: look at "
            "its rows in payments and payment_attempts"
        )

    def _cancel(self, order: Row, why: str) -> bool:
        self._on_step("cancel")
        with self._database.transaction():
            self._fetch("order_lock")
            self._fetch("payments_lock")
            done = bool(self._fetch("order_cancel"))
            if done:
                notifications.enqueue_status(
                    self._database, order, "cancelled", f"Reason: {why}.", self._config.order_url
                )
        return done

    def _finish_refund(self, order: Row, why: str) -> bool:
        self._on_step("cancel")
        with self._database.transaction():
            self._fetch("order_lock")
            done = bool(self._fetch("order_refund"))
            if done:
                notifications.enqueue_status(
                    self._database, order, "refunded", f"Reason: {why}.", self._config.order_url
                )
        return done or self._load_order()["state"] == "refunded"

    # --- reading ------------------------------------------------------------------------------------

    def _load_order(self) -> Row:
        values = {"id": self._id, "payment_timeout_hours": self._config.payment_timeout_hours}
        found = self._database.execute(statement("orders", "order_get"), values).fetchone()
        if found is None:
            raise InvalidInput("order_id", f"there is no order {self._id}; give the id of one (its number is another)")
        return found

    def _is_in_state(self, state: str) -> bool:
        return any(row["state"] == state for row in self._fetch("order_lock"))

    def _fetch(self, name: str) -> list[Any]:
        return self._database.execute(statement("orders", name), {"id": self._id}).fetchall()

    def _result(self, ended: SagaOutcome, why: str) -> SagaResult:
        order = self._load_order()
        return SagaResult(order["number"], order["state"], ended, why)
