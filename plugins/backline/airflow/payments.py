"""The tasks of the jobs about payments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from airflow.sdk import task_group

from backline.airflow.jobs import reporter
from backline.airflow.sql_trigger import SqlTrigger, sql_schedule
from backline.payments.settings import PaymentSettings
from backline.settings import settings

if TYPE_CHECKING:
    from airflow.sdk import AssetOrTimeSchedule
    from airflow.sdk.definitions.xcom_arg import XComArg

    from backline.payments.provider import Provider

APPROVE, REJECT = "Approve", "Reject"
CONNECTION = settings().section(PaymentSettings).connection
Planned: TypeAlias = dict[str, Any]
"""What `plan_now` hands on."""


def on_payment_events(cron: str) -> AssetOrTimeSchedule:
    """A schedule: when a provider has told something that nobody has looked at yet."""
    bell = SqlTrigger("payments", "event_is_waiting", settings().section(PaymentSettings).poll_interval_seconds)
    return sql_schedule("payment events", "backline://bell/payment-events", bell, cron)


def provider() -> Provider:
    """The payment provider of the connection."""
    from backline.airflow.connections import http_gateway
    from backline.payments.stripe_client import StripeProvider

    config = settings().section(PaymentSettings)
    return StripeProvider(http_gateway(config.connection), config.timeout_seconds)


def charge_now(order_id: int) -> dict[str, Any]:
    """Charge an order; returns how its payment stands."""
    from backline.airflow.connections import app_dsn
    from backline.db.connect import session
    from backline.payments.charges import charge

    with session(app_dsn(), name="payments") as database:
        outcome = charge(database, provider(), order_id)
    stands = {
        "order_id": order_id,
        "payment_id": outcome.payment_id,
        "state": outcome.state,
        "decline": outcome.decline and {"kind": outcome.decline.kind, "code": outcome.decline.code},
        "next_attempt_at": outcome.next_attempt_at and outcome.next_attempt_at.isoformat(),
    }
    reporter().result(stands)
    return stands


def plan_now(auto_decision: str) -> Planned:
    """Settle tries that were left without an end, and find what is due: to try, and to ask about."""
    from backline.airflow.connections import app_dsn
    from backline.db.connect import session
    from backline.payments.dunning import approval_request, plan_retries, record_approval, settle_orphaned_attempts

    config = settings().section(PaymentSettings)
    asked_of = provider()
    with session(app_dsn(), name="payments") as database:
        recovered = settle_orphaned_attempts(database, asked_of, config.batch_limit)
        found = plan_retries(database, asked_of.name, config)
        if auto_decision:
            for due in found.to_approve:
                record_approval(
                    database,
                    due.payment_id,
                    due.number,
                    approved=auto_decision == "approve",
                    decided_by="auto_decision",
                )
            found.due += found.to_approve if auto_decision == "approve" else []
            found.to_approve = []
    return {
        "due": [[due.order_id, due.number] for due in found.due],
        "to_ask": [approval_request(due) for due in found.to_approve],
        "asked": found.awaiting_approval,
        "recovered": recovered.as_dict(),
    }


def questions_of(planned: Planned) -> list[dict[str, object]]:
    """What people are asked, one payment each."""
    return list(planned["to_ask"])


def retry_now(planned: Planned) -> dict[str, Any]:
    """Make the tries that are due; returns counts."""
    from backline.airflow.connections import app_dsn
    from backline.db.connect import session
    from backline.payments.dunning import retry_due

    with session(app_dsn(), name="payments") as database:
        report = retry_due(database, provider(), [(order_id, number) for order_id, number in planned["due"]])
    stands = {**report.as_dict(), "asking": len(planned["to_ask"]), "asked": planned["asked"]}
    reporter().result({**stands, "recovered": planned["recovered"]})
    return stands


def decided_now(request: Mapping[str, Any], answered: Mapping[str, Any]) -> dict[str, Any]:
    """Do as a person has answered: try, or give the payment up."""
    from backline.airflow.connections import app_dsn
    from backline.db.connect import session
    from backline.payments.dunning import record_approval, retry_due

    user = answered.get("responded_by_user") or {}
    approved = answered["chosen_options"] == [APPROVE]
    with session(app_dsn(), name="payments") as database:
        record_approval(
            database,
            request["payment_id"],
            request["number"],
            approved=approved,
            decided_by=str(user.get("name") or "unknown"),
        )
        if not approved:
            return {"given up": 1}
        return retry_due(database, provider(), [(request["order_id"], request["number"])]).as_dict()


def asking(requests: XComArg) -> None:
    """Ask people about large payments in Airflow's UI, and do as they say; each waits for itself, without a worker."""
    from airflow.providers.standard.operators.hitl import HITLOperator
    from airflow.sdk import task

    @task_group(group_id="large_payments")
    def large(request: Any) -> None:
        ask = HITLOperator(
            task_id="ask",
            doc_md="Waits until somebody has answered under Required Actions.",
            subject="Try the payment of a large order again?",
            body=(
                "{% set it = ti.xcom_pull(task_ids='plan')['to_ask'][ti.map_index] %}"
                "Order **{{ it.order_number }}**, {{ it.amount }}. It was declined ({{ it.decline_code }}); this would be try "
                "{{ it.number }}.\n\nIf it is rejected the payment is given up."
            ),
            options=[APPROVE, REJECT],
            response_timeout=timedelta(hours=settings().section(PaymentSettings).approval_timeout_hours),
            retries=0,
        )

        @task(doc_md="Tries the payment, or gives it up, as was answered.")
        def decide(asked: dict[str, Any], answered: dict[str, Any]) -> dict[str, Any]:
            return decided_now(asked, answered)

        decide(request, cast("Any", ask.output))

    large.expand(request=requests)


def ingest_now() -> dict[str, object]:
    """Process the events that wait; Rejected names those that came to nothing, once."""
    from backline.airflow.connections import app_dsn
    from backline.db.connect import session
    from backline.errors import Rejected
    from backline.payments.webhook_events import ingest

    with session(app_dsn(), name="payments") as database:
        report = ingest(database, settings().section(PaymentSettings).event_max_wait_hours)
    reporter().result(report.as_dict())
    if report.problems:
        raise Rejected(_told(report.problems))
    return report.as_dict()


def _told(problems: Sequence[str]) -> str:
    return f"{len(problems)} events of payment providers came to nothing: {'; '.join(problems[:3])}"
