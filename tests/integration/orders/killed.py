"""Processes an order and dies at a point of it: `killed.py DSN URL ORDER POINT`; SIGKILL, as the kernel would."""

from __future__ import annotations

import os
import signal
import sys

from backline.db.session import session
from backline.orders.saga import process_order
from backline.orders.settings import OrderSettings
from tests.integration.orders.provider import HttpCharging

CHARGED = "charged"
"""The point between the provider's answer and the commit of it."""
END = "end"


def main(dsn: str, url: str, order_id: int, point: str) -> None:
    def die_at(now: str) -> None:
        if now == point:
            os.kill(os.getpid(), signal.SIGKILL)

    with session(dsn, name="killed") as database:
        process_order(database, HttpCharging(url, lambda: die_at(CHARGED)), order_id, OrderSettings(), die_at)
        die_at(END)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
