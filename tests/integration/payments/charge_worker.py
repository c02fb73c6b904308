"""Charges one order in a process that a test can kill: `charge_worker.py DSN URL ORDER`."""

from __future__ import annotations

import sys

from backline.channels.http import HttpGateway
from backline.db.connect import session
from backline.payments.charges import charge
from backline.payments.stripe_client import StripeProvider

if __name__ == "__main__":
    dsn, url, order = sys.argv[1:]
    with session(dsn, name="doomed") as connection:
        provider = StripeProvider(HttpGateway("stripe_api", url, password="sk_test_sandbox"), 60.0)
        sys.stdout.write(charge(connection, provider, int(order)).state + "\n")
