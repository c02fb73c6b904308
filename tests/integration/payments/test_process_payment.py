"""The job process_payment: its parameter and its result; test_charges.py has the charge itself."""

from __future__ import annotations

import pytest

from backline.errors import InvalidInput
from backline.payments.process_payment import process_payment
from backline.payments.settings import PaymentSettings
from backline.payments.stripe_client import StripeProvider
from tests.integration.job_factory import create_job
from tests.integration.payments.support import CARD_STOLEN, Account, Shop


def test_it_charges_the_order_once_and_returns_the_payments_state(
    database: str, shop: Shop, account: Account, provider: StripeProvider
) -> None:
    order = shop.order()
    jobs = [create_job(database, PaymentSettings(), params={"order_id": order}, provider=provider) for _ in range(2)]
    first, second = (job.execute(process_payment) for job in jobs)
    assert first == second
    assert (first["order_id"], first["state"]) == (order, "paid")
    assert shop.state(order) == ("paid", "captured")
    assert len(account.charges()) == 1


def test_a_decline_is_a_result(database: str, shop: Shop, provider: StripeProvider) -> None:
    order = shop.order(CARD_STOLEN)
    job = create_job(database, PaymentSettings(), params={"order_id": order}, provider=provider)
    result = job.execute(process_payment)
    assert (result["state"], result["decline"]["kind"]) == ("declined", "hard")


def test_the_order_is_required(database: str, provider: StripeProvider) -> None:
    with pytest.raises(InvalidInput, match="order_id: is required"):
        create_job(database, PaymentSettings(), provider=provider).execute(process_payment)
