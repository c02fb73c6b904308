"""Processes an order and dies at a point of it: `killed.py DSN URL ORDER POINT`; SIGKILL, as the kernel would."""

from __future__ import annotations

import os
import signal
import sys

from backline.channels.http.gateway import HttpGateway
from backline.db.session import session
from backline.orders.saga import process_order
from backline.orders.settings import OrderSettings
from backline.payments.provider import Charge, Charged
from backline.payments.stripe_client import StripeProvider
from tests.integration.payments.shop import API_KEY, TIMEOUT

CHARGED = "charged"
"""The point between the provider's answer and the commit of it."""
END = "end"


class Doomed(StripeProvider):
    """Dies once the provider has charged, or given back."""

    def charge(self, wanted: Charge) -> Charged:
        charged = super().charge(wanted)
        die_at(CHARGED)
        return charged

    def refund(self, reference: str, amount_minor: int, key: str) -> str:
        refund = super().refund(reference, amount_minor, key)
        die_at(CHARGED)
        return refund


def die_at(now: str) -> None:
    if now == sys.argv[4]:
        os.kill(os.getpid(), signal.SIGKILL)


def main(dsn: str, url: str, order_id: int) -> None:
    provider = Doomed(HttpGateway("stripe_api", url, password=API_KEY), TIMEOUT)
    with session(dsn, name="killed") as database:
        process_order(database, provider, order_id, OrderSettings(), die_at)
        die_at(END)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
