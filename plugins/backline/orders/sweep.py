"""Moves orders along that have stopped on their way, and tells of those that have rested for too long."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import psycopg

from backline.db.connect import Session, translate_error
from backline.db.statements import statement
from backline.errors import BacklineError, InvalidInput, Misconfigured, RetryableError
from backline.orders.saga import run_saga
from backline.orders.settings import OrderSettings
from backline.outbox.submission import enqueue
from backline.payments.provider import Provider

log = logging.getLogger(__name__)

MAX_CONSECUTIVE_FAILURES = 5
"""After so many the far side is taken to be away: the rest is left to the next run."""
MAX_LISTED = 50
"""How many failures are told of one by one."""
Progress = Callable[[float, str], object]


@dataclass(slots=True)
class SweepReport:
    """What a run has done."""

    examined: int = 0
    outcomes: dict[str, int] = field(default_factory=dict)
    """How many orders ended how (`saga.Ended`)."""
    failed: int = 0
    failures: list[dict[str, str]] = field(default_factory=list)
    """The first of them: the order's number, the failure's class, what it said."""
    stopped_early: bool = False
    has_more: bool = False
    """Whether there may be further orders, beyond the bound or after it stopped."""
    stuck: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By state: how many, since when, the numbers of the first ten."""

    def as_dict(self) -> dict[str, Any]:
        """For the run's result."""
        return asdict(self)


def sweep_orders(
    database: Session,
    provider: Provider,
    config: OrderSettings,
    alert_recipients: Sequence[str],
    progress: Progress = lambda *_: None,
) -> SweepReport:
    """Move along up to `batch_limit` orders, one by one: what goes wrong with one harms no other. Then look for stuck ones.

    Those of `alerted` get a mail about stuck orders, once a day for the same numbers of them. Transient failures that
    stop a run before it has moved any order are raised after all of this, so that it is retried.
    """
    report = SweepReport()
    failure = _advance_orders(database, provider, config, report, progress)
    report.stuck = find_stuck(database, config)
    if report.stuck:
        _enqueue_alert(database, report.stuck, alert_recipients)
    if failure is not None and report.stopped_early and not report.outcomes:
        raise failure
    return report


def find_stuck(database: Session, config: OrderSettings) -> dict[str, dict[str, Any]]:
    """Orders that are in their state for longer than `stuck_hours` allows, by state."""
    values = {"states": list(config.stuck_hours), "hours": list(config.stuck_hours.values())}
    rows = database.execute(statement("orders", "order_stuck"), values).fetchall()
    return {
        row["state"]: {"orders": row["orders"], "since": row["since"].isoformat(), "first": row["numbers"]}
        for row in rows
    }


def _advance_orders(
    database: Session, provider: Provider, config: OrderSettings, report: SweepReport, progress: Progress
) -> BacklineError | None:
    values = {
        "grace_seconds": config.grace_seconds,
        "payment_timeout_hours": config.payment_timeout_hours,
        "batch_limit": config.batch_limit,
    }
    orders = database.execute(statement("orders", "order_unfinished"), values).fetchall()
    ended: Counter[str] = Counter()
    in_a_row, failure = 0, None
    for place, order in enumerate(orders):
        progress(100 * place / len(orders), f"order {order['number']}")
        report.examined += 1
        try:
            ended[run_saga(database, provider, order["id"], config).outcome.value] += 1
            in_a_row = 0
        except (BacklineError, psycopg.Error) as exc:
            failure = translate_error(exc) if isinstance(exc, psycopg.Error) else exc
            if database.closed or isinstance(failure, Misconfigured):
                raise failure from exc
            log.warning("order %s: %s", order["number"], failure)
            report.failed += 1
            if len(report.failures) < MAX_LISTED:
                told = {"order": order["number"], "class": failure.failure_class.value, "why": str(failure)[:500]}
                report.failures.append(told)
            in_a_row = in_a_row + 1 if isinstance(failure, RetryableError) else 0
            if in_a_row == MAX_CONSECUTIVE_FAILURES:
                report.stopped_early = True
                break
    report.outcomes = dict(ended)
    report.has_more = report.examined < len(orders) or len(orders) == config.batch_limit
    return failure


def _enqueue_alert(database: Session, found: dict[str, dict[str, Any]], alert_recipients: Sequence[str]) -> None:
    [today] = database.execute(statement("orders", "today")).fetchall()
    counts = ", ".join(f"{each['orders']} {state}" for state, each in found.items())
    details = {
        f"{state.capitalize()}, {each['orders']}": f"since {each['since'][:16]} UTC: {', '.join(each['first'])}"
        for state, each in found.items()
    }
    context = {
        "title": f"Orders are stuck: {counts}",
        "summary": "They have been in their state for longer than orders.stuck_hours allows.",
        "severity": "warning",
        "details": details,
        "action": "Start process_order with the id of one: its result says what it waits for.",
    }
    for address in alert_recipients:
        try:
            # The same numbers on the same day are no news.
            enqueue(
                database, "templated_email", address, {"template": "system_alert", "context": context},
                key=f"orders stuck:{today['today']}:{address}:{counts}"[:255],
            )  # fmt: skip
        except InvalidInput as exc:
            # The same key with other orders under the same numbers: it was told of, too.
            if exc.field != "idempotency_key":
                raise
