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

from backline.db.session import Session
from backline.db.statements import statement
from backline.errors import BacklineError, InvalidInput, UnknownFailure
from backline.orders import notices
from backline.orders.settings import OrderSettings
from backline.payments.charging import charge
from backline.payments.provider import Provider
from backline.payments.refunding import refund

Row = Mapping[str, Any]
Notice = Callable[[str], None]
PROGRESS = {"validate": 0, "reserve": 20, "pay": 40, "confirm": 80, "refund": 90, "cancel": 95}
"""Each thing that is done, and how far the order is then, in per cent."""
TRIED_AGAIN = "the payment was declined and is tried again"
ROUNDS = 5
"""How often an order that is taken back may turn out to have moved on before it is left to the next run."""


class Ended(StrEnum):
    """How a run of the saga has ended."""

    CONFIRMED = "confirmed"
    WAITING = "waiting"  # for the customer, for the next try of the payment, or for the money to be back
    CANCELLED = "cancelled"
    REFUNDED = "refunded"
    NOTHING = "nothing to do"  # it was past all of this


@dataclass(frozen=True, slots=True)
class Processed:
    """What became of an order."""

    order: str
    """Its number."""
    state: str
    ended: Ended
    why: str = ""

    def as_dict(self) -> dict[str, str]:
        """For the run's result."""
        return {"order": self.order, "state": self.state, "ended": self.ended.value, "why": self.why}


class _Refused(BacklineError):
    """A step cannot be taken, now or later: what was done is taken back. The text is for the customer."""


class _Waiting(BacklineError):
    """Nothing can be done until somebody else has done something."""


def process_order(
    database: Session, provider: Provider, order_id: int, config: OrderSettings, doing: Notice = lambda _: None
) -> Processed:
    """Move an order as far as it goes. `database` is in autocommit; `doing` hears what is done next, a key of `PROGRESS`.

    InvalidInput if there is no such order. Retryable errors, such as those of the payment provider, leave the order
    where it is: the same call goes on from there.
    """
    return _Saga(database, provider, order_id, config, doing).run()


class _Saga:
    def __init__(
        self, database: Session, provider: Provider, order_id: int, config: OrderSettings, doing: Notice
    ) -> None:
        self._database, self._provider, self._id, self._config, self._doing = (
            database, provider, order_id, config, doing,
        )  # fmt: skip

    def run(self) -> Processed:
        steps = {"pending": self._reserve, "reserved": self._pay, "paid": self._confirm}
        moved = False
        while (step := steps.get((order := self._order())["state"])) is not None:
            try:
                step(order)
            except _Refused as exc:
                return self._take_back(str(exc))
            except _Waiting as exc:
                return self._processed(Ended.WAITING, str(exc))
            moved = True
        ended = {"confirmed": Ended.CONFIRMED, "cancelled": Ended.CANCELLED, "refunded": Ended.REFUNDED}
        return self._processed(ended.get(order["state"], Ended.NOTHING) if moved else Ended.NOTHING, "")

    # --- forward ------------------------------------------------------------------------------------

    def _reserve(self, order: Row) -> None:
        self._doing("validate")
        self._validate(order)
        self._doing("reserve")
        with self._database.transaction():
            if not self._is("pending"):
                return
            short = [row["sku"] for row in self._rows("stock_lock") if row["free"] < row["wanted"]]
            if short:
                raise _Refused(f"not in stock: {', '.join(short[:5])}")
            self._rows("order_reserve")

    def _pay(self, order: Row) -> None:
        if order["is_given_up"] and not order["is_under_way"]:
            raise _Refused("the payment was declined")
        if order["is_tried_again"] and not order["is_under_way"]:
            raise _Waiting(TRIED_AGAIN)
        if order["is_charged_by_others"]:
            raise self._unpaid(order, "its subscription is charged by the provider itself")
        # Also when it is late, or the customer must act: it may have been paid meanwhile, and asking costs nothing.
        self._doing("pay")
        outcome = charge(self._database, self._provider, self._id)
        order = self._order()
        if outcome.state == "needs_action":
            raise self._unpaid(order, "the customer must confirm the payment")
        if outcome.state == "declined":
            raise _Waiting(TRIED_AGAIN) if order["is_tried_again"] else _Refused("the payment was declined")
        if order["state"] == "reserved":
            raise UnknownFailure(
                f"order {order['number']}: its payment is there, but the order is not paid: look at its rows"
            )

    def _confirm(self, order: Row) -> None:
        if order["is_going_back"]:
            raise _Refused("its payment is being refunded")
        self._doing("confirm")
        lines = self._validate(order)
        with self._database.transaction():
            if self._rows("order_confirm") and not order["was_told"]:
                notices.confirm(self._database, order, lines, self._config.page)

    def _validate(self, order: Row) -> list[Row]:
        """Whether the order can be served and its customer be told; returns its lines."""
        lines = self._rows("order_lines")
        if not lines:
            raise _Refused("it has no lines")
        if gone := [line["sku"] for line in lines if line["is_retired"]]:
            raise _Refused(f"no longer sold: {', '.join(gone[:5])}")
        if not order["may_be_told"]:
            raise _Refused("the customer's account is closed")
        try:
            notices.confirmation(order, lines, self._config.page)
        except InvalidInput as exc:
            raise _Refused(f"it could not be confirmed: {exc}") from exc
        return lines

    def _unpaid(self, order: Row, waits: str) -> BacklineError:
        """Somebody else has to do something, and has so long for it."""
        return _Refused("it was not paid in time") if order["is_late"] else _Waiting(waits)

    # --- back ---------------------------------------------------------------------------------------

    def _take_back(self, why: str) -> Processed:
        """Undo in reverse what was done; whatever else happens to the order meanwhile is seen and heeded."""
        for _ in range(ROUNDS):
            order = self._order()
            if order["state"] not in ("pending", "reserved", "paid"):
                return self._processed(Ended.NOTHING, why)
            if order["has_payment"]:
                # The money that came, and any that might still come: a payment that waits is closed at the provider.
                self._doing("refund")
                refund(self._database, self._provider, self._id, why)
            if order["state"] != "paid":
                if self._cancel(order, why):
                    return self._processed(Ended.CANCELLED, why)
            elif self._settle_refund(order, why):
                return self._processed(Ended.REFUNDED, why)
            else:
                return self._processed(Ended.WAITING, f"{why}; the money is on its way back")
        raise UnknownFailure(
            f"order {order['number']} is to be taken back ({why}), but neither its payment nor its state lets it: look at "
            "its rows in payments and payment_tries"
        )

    def _cancel(self, order: Row, why: str) -> bool:
        self._doing("cancel")
        with self._database.transaction():
            self._rows("order_lock")
            self._rows("payments_lock")
            done = bool(self._rows("order_cancel"))
            if done:
                notices.tell_status(self._database, order, "cancelled", f"Reason: {why}.", self._config.page)
        return done

    def _settle_refund(self, order: Row, why: str) -> bool:
        self._doing("cancel")
        with self._database.transaction():
            self._rows("order_lock")
            done = bool(self._rows("order_refund"))
            if done:
                notices.tell_status(self._database, order, "refunded", f"Reason: {why}.", self._config.page)
        return done or self._order()["state"] == "refunded"

    # --- reading ------------------------------------------------------------------------------------

    def _order(self) -> Row:
        values = {"id": self._id, "payment_hours": self._config.payment_hours}
        found = self._database.execute(statement("orders", "order_get"), values).fetchone()
        if found is None:
            raise InvalidInput("order_id", f"there is no order {self._id}; give the id of one (its number is another)")
        return found

    def _is(self, state: str) -> bool:
        return any(row["state"] == state for row in self._rows("order_lock"))

    def _rows(self, name: str) -> list[Any]:
        return self._database.execute(statement("orders", name), {"id": self._id}).fetchall()

    def _processed(self, ended: Ended, why: str) -> Processed:
        order = self._order()
        return Processed(order["number"], order["state"], ended, why)
