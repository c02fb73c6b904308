"""Moves orders along that have stopped on their way, and tells of those that have rested for too long."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import psycopg

from backline.db.connect import translate
from backline.db.session import Session
from backline.db.statements import statement
from backline.errors import BacklineError, InvalidInput, Misconfigured, RetryableError
from backline.orders.saga import process_order
from backline.orders.settings import OrderSettings
from backline.outbox.enqueue import enqueue
from backline.payments.provider import Provider

log = logging.getLogger(__name__)

FAILURES_IN_A_ROW = 5
"""After so many the far side is taken to be away: the rest is left to the next run."""
TOLD_OF = 50
"""How many failures are told of one by one."""
Progress = Callable[[float, str], object]


@dataclass(slots=True)
class PendingReport:
    """What a run has done."""

    looked_at: int = 0
    ended: dict[str, int] = field(default_factory=dict)
    """How many orders ended how (`saga.Ended`)."""
    failed: int = 0
    failures: list[dict[str, str]] = field(default_factory=list)
    """The first of them: the order's number, the failure's class, what it said."""
    stopped_early: bool = False
    more: bool = False
    """Whether there may be further orders, beyond the bound or after it stopped."""
    stuck: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By state: how many, since when, the numbers of the first ten."""

    def as_dict(self) -> dict[str, Any]:
        """For the run's result."""
        return asdict(self)


def process_pending(
    database: Session,
    provider: Provider,
    config: OrderSettings,
    alerted: Sequence[str],
    progress: Progress = lambda *_: None,
) -> PendingReport:
    """Move along up to `at_most` orders, one by one: what goes wrong with one harms no other. Then look for stuck ones.

    Those of `alerted` get a mail about stuck orders, once a day for the same numbers of them. Transient failures that
    stop a run before it has moved any order are raised after all of this, so that it is retried.
    """
    report = PendingReport()
    failure = _move_along(database, provider, config, report, progress)
    report.stuck = stuck(database, config)
    if report.stuck:
        _alert(database, report.stuck, alerted)
    if failure is not None and report.stopped_early and not report.ended:
        raise failure
    return report


def stuck(database: Session, config: OrderSettings) -> dict[str, dict[str, Any]]:
    """Orders that are in their state for longer than `stuck_hours` allows, by state."""
    values = {"states": list(config.stuck_hours), "hours": list(config.stuck_hours.values())}
    rows = database.execute(statement("orders", "order_stuck"), values).fetchall()
    return {
        row["state"]: {"orders": row["orders"], "since": row["since"].isoformat(), "first": row["numbers"]}
        for row in rows
    }


def _move_along(
    database: Session, provider: Provider, config: OrderSettings, report: PendingReport, progress: Progress
) -> BacklineError | None:
    values = {"settle_seconds": config.settle_seconds, "payment_hours": config.payment_hours, "most": config.at_most}
    orders = database.execute(statement("orders", "order_unfinished"), values).fetchall()
    ended: Counter[str] = Counter()
    in_a_row, failure = 0, None
    for place, order in enumerate(orders):
        progress(100 * place / len(orders), f"order {order['number']}")
        report.looked_at += 1
        try:
            ended[process_order(database, provider, order["id"], config).ended.value] += 1
            in_a_row = 0
        except (BacklineError, psycopg.Error) as exc:
            failure = translate(exc) if isinstance(exc, psycopg.Error) else exc
            if database.closed or isinstance(failure, Misconfigured):
                raise failure from exc
            log.warning("order %s: %s", order["number"], failure)
            report.failed += 1
            if len(report.failures) < TOLD_OF:
                told = {"order": order["number"], "class": failure.failure_class.value, "why": str(failure)[:500]}
                report.failures.append(told)
            in_a_row = in_a_row + 1 if isinstance(failure, RetryableError) else 0
            if in_a_row == FAILURES_IN_A_ROW:
                report.stopped_early = True
                break
    report.ended = dict(ended)
    report.more = report.looked_at < len(orders) or len(orders) == config.at_most
    return failure


def _alert(database: Session, found: dict[str, dict[str, Any]], alerted: Sequence[str]) -> None:
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
    for address in alerted:
        try:
            # The same numbers on the same day are no news.
            enqueue(
                database, "templated_email", address, {"template": "system_alert", "context": context},
                f"orders stuck:{today['today']}:{address}:{counts}"[:255],
            )  # fmt: skip
        except InvalidInput as exc:
            # The same key with other orders under the same numbers: it was told of, too.
            if exc.field != "idempotency_key":
                raise
