"""What orders need of whoever takes the money; which one it is, the setting `orders.charging` says."""

from __future__ import annotations

from importlib import import_module
from typing import Literal, Protocol, cast

from backline.db.session import Session
from backline.errors import Misconfigured, NotConfigured


class Outcome(Protocol):
    """How a charge has ended."""

    @property
    def state(self) -> Literal["paid", "declined", "needs_action"]:
        """`needs_action`: the customer must do something, at their bank for example."""


class Charging(Protocol):
    """Takes an order's money and gives it back. Both may be repeated at any time, and find out what came of a try before.

    Each gets a connection in autocommit and commits on its own what it learns, in the tables of payments and refunds.
    A retryable error says that the outcome is not known: the same call will tell.
    """

    def charge(self, database: Session, order_id: int) -> Outcome:
        """Take the order's total once, if its stock is set aside. It may mark the order paid in the same transaction."""

    def refund(self, database: Session, order_id: int, reason: str) -> None:
        """Give back all that was taken. It leaves the order as it is: that is settled with its stock."""


def charging_of(path: str) -> Charging:
    """What "module:function" returns. NotConfigured if the path is empty, Misconfigured if it leads nowhere."""
    if not path:
        raise NotConfigured(
            "orders.charging is not set: name the function that returns what takes the money, as module:function"
        )
    module, _, name = path.partition(":")
    try:
        make = getattr(import_module(module), name)
    except (ImportError, AttributeError) as exc:
        raise Misconfigured(f"orders.charging: {path!r} cannot be imported: {exc}; mend its spelling") from exc
    return cast("Charging", make())
