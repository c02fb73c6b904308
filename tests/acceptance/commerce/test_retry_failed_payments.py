"""`retry_failed_payments`: due payments are attempted again, and large amounts wait for a person."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from demo.check import wait_until
from demo.context import DemoContext
from tests.acceptance.commerce.payments import PaymentStack, paid_stack

pytestmark = pytest.mark.stack
JOB = "retry_failed_payments"


def declined(paid: PaymentStack, *, price: int) -> int:
    """An order whose payment was declined days ago, and whose card is valid now."""
    order = paid.order("pm_card_visa_chargeDeclinedInsufficientFunds", price=price)
    run_id = paid.context.run_id(f"declined-{price}")
    paid.context.airflow.trigger("process_payment", {"order_id": order}, run_id)
    assert paid.context.airflow.wait("process_payment", run_id, 120)["state"] == "success"
    paid.shop.change_method(order, "pm_card_visa")
    paid.shop.execute(
        "UPDATE app.payments SET created_at = created_at - interval '9 days', failed_at = failed_at - interval '8 days',"
        " next_attempt_at = clock_timestamp() WHERE order_id = %s", order,
    )  # fmt: skip
    return order


def test_small_payments_are_attempted_and_large_ones_need_approval(
    context: DemoContext, stack_exports: dict[str, str]
) -> None:
    with paid_stack(context, stack_exports) as paid:
        small, large = declined(paid, price=1000), declined(paid, price=60_000)
        run_id = context.run_id("dunning")
        context.airflow.trigger(JOB, {}, run_id)
        runs = f"/api/v2/dags/{JOB}/dagRuns/{run_id}"
        path = f"{runs}/taskInstances/approvals.ask"

        def asked() -> object:
            found = context.airflow.get(f"{runs}/taskInstances")["task_instances"]
            return [one for one in found if one["task_id"] == "approvals.ask" and one["state"] == "awaiting_input"]

        def next_heartbeat() -> bool:
            beat = context.airflow.get("/api/v2/monitor/health")["scheduler"]["latest_scheduler_heartbeat"]
            return datetime.fromisoformat(beat) > parked

        assert wait_until(asked, "the question")
        parked = datetime.now(UTC)
        # Airflow fails a task that is answered before its scheduler has seen it wait; no person is as quick as that.
        assert wait_until(next_heartbeat, "the scheduler's next heartbeat")
        assert wait_until(lambda: paid.shop.state(small) == ("paid", "captured"), "the small one")
        assert paid.charges(large) == []
        number = paid.shop.fetch_one("SELECT number FROM app.orders WHERE id = %s", large)["number"]
        assert number in context.airflow.get(f"{path}/0/hitlDetails")["body"]
        context.airflow._request(
            "PATCH", f"{path}/0/hitlDetails", body={"chosen_options": ["Approve"], "params_input": {}}
        )
        assert context.airflow.wait(JOB, run_id, 120)["state"] == "success"
        assert paid.shop.state(large) == ("paid", "captured")
        assert paid.charges(large) == ["charged 142800 eur"]
        row = paid.shop.fetch_one(
            "SELECT a.approved, a.decided_by FROM backline.payment_approval AS a JOIN app.payments AS p ON p.id = a.payment_id"
            " WHERE p.order_id = %s", large,
        )  # fmt: skip
        assert row == {"approved": True, "decided_by": "admin"}
