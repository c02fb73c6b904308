"""Processes an order and kills itself at a step: `process_order_worker.py DSN URL ORDER STEP`."""

from __future__ import annotations

import os
import signal
import sys

from backline.channels.http import HttpGateway
from backline.db.connect import session
from backline.money import Money
from backline.orders.process_order import run_saga
from backline.orders.settings import OrderSettings
from backline.payments.provider import ChargeRequest, ChargeResult, ProviderRefund
from backline.payments.stripe_client import StripeProvider
from tests.integration.payments.support import API_KEY, TIMEOUT

PROVIDER_ANSWERED = "charged"
"""Between the provider's answer and its commit."""
END = "end"


class KilledProvider(StripeProvider):
    """Kills the process once the provider has charged or refunded."""

    def charge(self, request: ChargeRequest) -> ChargeResult:
        charged = super().charge(request)
        kill_at_point(PROVIDER_ANSWERED)
        return charged

    def refund(self, reference: str, amount: Money, key: str) -> ProviderRefund:
        refund = super().refund(reference, amount, key)
        kill_at_point(PROVIDER_ANSWERED)
        return refund


def kill_at_point(point: str) -> None:
    if point == sys.argv[4]:
        os.kill(os.getpid(), signal.SIGKILL)


def main(dsn: str, url: str, order_id: int) -> None:
    provider = KilledProvider(HttpGateway("stripe_api", url, password=API_KEY), TIMEOUT)
    with session(dsn, name="killed") as database:
        run_saga(database, provider, order_id, OrderSettings(), kill_at_point)
        kill_at_point(END)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
