"""retry_failed_payments: the dunning schedule, approval of large amounts, orphaned attempts."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from backline.errors import NetworkFailure, RetryableError
from backline.payments.charges import charge, retry_charge
from backline.payments.provider import ChargeRequest, ChargeResult
from backline.payments.retry_failed_payments import decide, request_approvals, retry_failed_payments
from backline.payments.settings import PaymentSettings
from backline.payments.stripe_client import StripeProvider
from tests.integration.job_factory import create_job
from tests.integration.payments.support import (
    CARD_INSUFFICIENT_FUNDS,
    CARD_NEEDS_AUTHENTICATION,
    CARD_STOLEN,
    CARD_VALID,
    Account,
    Shop,
)

CONFIG = PaymentSettings()
Run = Callable[..., Any]


@pytest.fixture
def run(database: str, provider: StripeProvider) -> Run:
    """Calls a function of the job as a task does; by default the one that makes the attempts."""

    def execute(
        function: Callable[..., object] = retry_failed_payments, config: PaymentSettings = CONFIG, decision: str = "",
        **inputs: Any,
    ) -> Any:  # fmt: skip
        job = create_job(database, config, provider=provider, params={"auto_decision": decision})
        return job.execute(function, inputs)

    return execute


def make_due(shop: Shop, late: timedelta = timedelta()) -> None:
    """Move everything that has happened into the past, until all next attempts are due, or as late as that."""
    shop.execute(
        "UPDATE app.payment_attempts AS t SET started_at = t.started_at - a.age, ended_at = t.ended_at - a.age FROM app.payments AS p,"
        " LATERAL (SELECT p.next_attempt_at - clock_timestamp() + interval '1 ms' + %s AS age) AS a"
        " WHERE p.id = t.payment_id AND p.next_attempt_at IS NOT NULL", late,
    )  # fmt: skip
    shop.execute(
        "UPDATE app.payments AS p SET created_at = p.created_at - a.age, failed_at = p.failed_at - a.age,"
        " next_attempt_at = p.next_attempt_at - a.age FROM app.payments AS q,"
        " LATERAL (SELECT q.next_attempt_at - clock_timestamp() + interval '1 ms' + %s AS age) AS a"
        " WHERE q.id = p.id AND p.next_attempt_at IS NOT NULL", late,
    )  # fmt: skip


def days_from_the_first_decline(shop: Shop, order: int) -> float | None:
    """When the next attempt is due."""
    value: float | None = shop.fetch_value(
        "SELECT extract(epoch FROM p.next_attempt_at - (SELECT min(t.ended_at) FROM app.payment_attempts AS t"
        " WHERE t.payment_id = p.id AND t.outcome = 'declined'))::float8 / 86400 FROM app.payments AS p WHERE p.order_id = %s",
        order,
    )
    return value


def outcomes(result: dict[str, Any]) -> dict[str, int]:
    found: dict[str, int] = result["retried"]["outcomes"]
    return found


def test_the_schedule_is_followed_to_its_end(shop: Shop, account: Account, provider: StripeProvider, run: Run) -> None:
    order = shop.order(CARD_INSUFFICIENT_FUNDS)
    charge(shop.database, provider, order)
    days = []
    for attempts in range(2, len(CONFIG.dunning_days) + 2):
        days.append(days_from_the_first_decline(shop, order))
        assert outcomes(run()) == {}
        make_due(shop)
        assert outcomes(run()) == {"declined": 1}
        assert len(shop.attempt_outcomes(order)) == attempts
    assert days == [pytest.approx(day) for day in CONFIG.dunning_days] == [1, 3, 5, 7]
    assert shop.state(order) == ("reserved", "abandoned")
    assert len(shop.attempt_outcomes(order)) == len(CONFIG.dunning_days) + 1
    assert outcomes(run()) == {}
    messages = shop.messages()
    assert [kind for kind, _ in messages] == ["payment_failed"] * 5
    assert ["retry_on" in payload for _, payload in messages] == [True] * 4 + [False]
    assert account.charges() == []
    assert shop.invariant_violations() == set()


def test_a_late_attempt_does_not_move_the_later_ones(shop: Shop, provider: StripeProvider, run: Run) -> None:
    order = shop.order(CARD_INSUFFICIENT_FUNDS)
    charge(shop.database, provider, order)
    make_due(shop, late=timedelta(hours=20))  # on the second day
    run()
    assert days_from_the_first_decline(shop, order) == pytest.approx(3)
    make_due(shop, late=timedelta(days=10))  # all later days are past
    run()
    payment = shop.payment(order)
    assert (payment["state"], payment["next_attempt_at"]) == ("failed", payment["failed_at"])
    assert outcomes(run()) == {"declined": 1}


def test_declines_are_counted_although_the_customer_had_to_confirm_first(
    shop: Shop, account: Account, provider: StripeProvider
) -> None:
    order = shop.order(CARD_NEEDS_AUTHENTICATION)
    assert charge(shop.database, provider, order).state == "needs_action"
    account.decline_open_intents()
    assert charge(shop.database, provider, order).state == "declined"
    assert days_from_the_first_decline(shop, order) == pytest.approx(1)
    assert shop.attempt_outcomes(order) == ["requires_action", "declined"]


def test_a_card_with_sufficient_funds_again_is_charged(
    shop: Shop, account: Account, provider: StripeProvider, run: Run
) -> None:
    order = shop.order(CARD_INSUFFICIENT_FUNDS)
    charge(shop.database, provider, order)
    make_due(shop)
    shop.change_method(order, CARD_VALID)
    assert outcomes(run()) == {"paid": 1}
    assert shop.state(order) == ("paid", "captured")
    assert len(account.intents()) == 1
    assert account.charges() == ["charged 2380 eur"]
    assert shop.invariant_violations() == set()


@pytest.mark.parametrize("method", [CARD_STOLEN, CARD_NEEDS_AUTHENTICATION])
def test_only_soft_declines_are_attempted_again(method: str, shop: Shop, provider: StripeProvider, run: Run) -> None:
    order = shop.order(method)
    charge(shop.database, provider, order)
    make_due(shop)
    assert outcomes(run()) == {}
    assert len(shop.attempt_outcomes(order)) == 1


def test_an_attempt_is_made_once(shop: Shop, provider: StripeProvider) -> None:
    order = shop.order(CARD_INSUFFICIENT_FUNDS)
    charge(shop.database, provider, order)
    assert retry_charge(shop.database, provider, order, 1) is None
    assert retry_charge(shop.database, provider, order, 3) is None
    make_due(shop)
    for _ in range(3):
        retry_charge(shop.database, provider, order, 2)
    assert len(shop.attempt_outcomes(order)) == 2


def test_a_transient_failure_affects_only_its_payment_and_is_raised(
    shop: Shop, account: Account, provider: StripeProvider, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    orders = [shop.order(CARD_INSUFFICIENT_FUNDS) for _ in range(3)]
    for order in orders:
        charge(shop.database, provider, order)
        shop.change_method(order, CARD_VALID)
    make_due(shop)
    working = provider.charge

    def fail_for_one(request: ChargeRequest) -> ChargeResult:
        if request.payment.order_id == orders[1]:
            raise NetworkFailure("no route to the provider")
        return working(request)

    monkeypatch.setattr(provider, "charge", fail_for_one)
    with pytest.raises(NetworkFailure, match="no route"):
        run()
    assert [shop.state(order)[0] for order in orders] == ["paid", "reserved", "paid"]
    assert shop.execute("SELECT 1 FROM backline.dead_letter") == []
    monkeypatch.undo()
    shop.execute("UPDATE app.payment_attempts SET started_at = started_at - interval '1 hour' WHERE ended_at IS NULL")
    assert run()["settled"]["outcomes"] == {"paid": 1}
    assert len(account.charges()) == 3


def test_a_transient_failure_is_attempted_once_more_in_the_same_run(
    shop: Shop, account: Account, provider: StripeProvider, run: Run
) -> None:
    order = shop.order(CARD_INSUFFICIENT_FUNDS)
    charge(shop.database, provider, order)
    shop.change_method(order, CARD_VALID)
    make_due(shop)
    account.set_faults({"recipient": "confirm", "status": 500, "body": {"error": {"type": "api_error"}}, "times": 1})
    assert outcomes(run()) == {"paid": 1}
    assert len(account.charges()) == 1


def test_a_permanent_failure_is_one_dead_letter(
    shop: Shop, account: Account, provider: StripeProvider, run: Run
) -> None:
    orders = [shop.order(CARD_INSUFFICIENT_FUNDS) for _ in range(2)]
    for order in orders:
        charge(shop.database, provider, order)
        shop.change_method(order, CARD_VALID)
    make_due(shop)
    shop.execute("UPDATE app.payments SET amount_minor = 1 WHERE order_id = %s", orders[0])
    result = run()["retried"]
    assert (result["outcomes"], result["failed"]) == ({"paid": 1}, 1)
    assert result["failures"][0]["failure_class"] == "validation"
    assert run()["retried"]["skipped"] == 1
    letters = shop.execute("SELECT state, attempts FROM backline.dead_letter WHERE kind = 'item'")
    assert [(letter["state"], letter["attempts"]) for letter in letters] == [("open", 1)]
    shop.execute("UPDATE app.payments SET amount_minor = 2380 WHERE order_id = %s", orders[0])
    assert outcomes(run()) == {"paid": 1}
    assert len(account.charges()) == 2


def test_a_run_is_bounded(shop: Shop, provider: StripeProvider, run: Run) -> None:
    for _ in range(3):
        charge(shop.database, provider, shop.order(CARD_INSUFFICIENT_FUNDS))
    make_due(shop)
    result = run(config=PaymentSettings(batch_limit=2))["retried"]
    assert (result["done"], result["limit_reached"]) == (2, True)


def declined_large_order(shop: Shop, provider: StripeProvider) -> tuple[int, int]:
    """The order and payment of a large amount whose second attempt is due."""
    order = shop.order(CARD_INSUFFICIENT_FUNDS, price=60_000)
    charge(shop.database, provider, order)
    shop.change_method(order, CARD_VALID)
    make_due(shop)
    return order, shop.payment(order)["id"]


def test_people_are_asked_about_a_large_payment_once(
    shop: Shop, account: Account, provider: StripeProvider, run: Run
) -> None:
    order, payment = declined_large_order(shop, provider)
    [request] = run(request_approvals)
    assert (request["attempt"]["id"], request["attempt"]["number"]) == (payment, 2)
    assert "€1,428.00" in request["question"]
    assert "insufficient_funds" in request["question"]
    assert run(request_approvals) == []
    result = run()
    assert (outcomes(result), result["awaiting_approval"]) == ({}, 1)
    assert account.charges() == []
    decided = run(decide, request=request, answer={"approved": True, "decided_by": "ann"})
    assert decided["outcomes"] == {"paid": 1}
    assert shop.state(order) == ("paid", "captured")


def test_no_more_is_requested_than_airflow_maps_tasks_to(
    database: str, shop: Shop, provider: StripeProvider, run: Run
) -> None:
    orders = [declined_large_order(shop, provider)[1] for _ in range(5)]
    asked = []
    for expected in (2, 2, 1, 0):
        job = create_job(database, CONFIG, provider=provider, params={"auto_decision": ""}, max_mapped_tasks=2)
        requests = job.execute(request_approvals)
        assert len(requests) == expected
        asked += [request["attempt"]["id"] for request in requests]
        # Only what was requested is noted: the next run requests the others.
        noted = shop.execute("SELECT payment_id FROM backline.payment_approval")
        assert sorted(asked) == sorted(row["payment_id"] for row in noted)
    assert sorted(asked) == sorted(orders)
    assert run()["awaiting_approval"] == 5


def test_an_approved_payment_is_charged_even_if_the_run_that_asked_has_died(
    shop: Shop, provider: StripeProvider, run: Run
) -> None:
    order, payment = declined_large_order(shop, provider)
    run(request_approvals)
    shop.execute(
        "UPDATE backline.payment_approval SET approved = true, decided_by = 'ann', decided_at = clock_timestamp()"
        " WHERE payment_id = %s", payment,
    )  # fmt: skip
    assert outcomes(run()) == {"paid": 1}
    assert shop.state(order) == ("paid", "captured")


def test_a_rejected_payment_is_abandoned(shop: Shop, account: Account, provider: StripeProvider, run: Run) -> None:
    order, _ = declined_large_order(shop, provider)
    [request] = run(request_approvals)
    run(decide, request=request, answer={"approved": False, "decided_by": "ann"})
    run(decide, request=request, answer={"approved": True, "decided_by": "bob"})  # too late: the first decision counts
    assert shop.state(order) == ("reserved", "abandoned")
    assert run(request_approvals) == []
    assert outcomes(run()) == {}
    assert account.charges() == []
    decision = shop.fetch_one("SELECT approved, decided_by FROM backline.payment_approval")
    assert decision == {"approved": False, "decided_by": "ann"}


@pytest.mark.parametrize(("decision", "state"), [("approve", "captured"), ("reject", "abandoned")])
def test_an_automatic_decision_asks_nobody(
    decision: str, state: str, shop: Shop, provider: StripeProvider, run: Run
) -> None:
    order, _ = declined_large_order(shop, provider)
    assert run(request_approvals, decision=decision) == []
    run()
    assert shop.state(order)[1] == state


def test_an_unanswered_request_is_repeated(shop: Shop, provider: StripeProvider, run: Run) -> None:
    _, payment = declined_large_order(shop, provider)
    run(request_approvals)
    shop.execute(
        "UPDATE backline.payment_approval SET requested_at = requested_at - interval '2 days', expires_at = expires_at - interval '2 days'"
    )
    assert [request["attempt"]["id"] for request in run(request_approvals)] == [payment]


def test_limits_are_by_currency() -> None:
    config = PaymentSettings(approval_above={"*": 100, "JPY": 5000})
    assert [config.needs_approval(amount, currency) for amount, currency in ((100, "EUR"), (101, "EUR"), (5000, "JPY"), (5001, "JPY"))] == [
        False, True, False, True,
    ]  # fmt: skip
    assert not PaymentSettings(approval_above={"EUR": 1}).needs_approval(10**9, "USD")


def test_an_attempt_of_a_dead_process_is_settled(
    shop: Shop, account: Account, provider: StripeProvider, run: Run
) -> None:
    order = shop.order()
    account.set_faults({"recipient": "confirm", "action": "drop", "after": True, "times": 1})
    with pytest.raises(RetryableError):
        charge(shop.database, provider, order)
    assert run()["settled"]["done"] == 0  # its process may still run
    shop.execute("UPDATE app.payment_attempts SET started_at = started_at - interval '1 hour'")
    assert run()["settled"]["outcomes"] == {"paid": 1}
    assert shop.state(order) == ("paid", "captured")
    assert account.charges() == ["charged 2380 eur"]
