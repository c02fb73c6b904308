"""The tasks of the jobs about subscriptions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

from backline.airflow.jobs import Requires, reporter
from backline.subscriptions.settings import SubscriptionSettings

NEEDS = Requires(tables=("app.subscriptions", "app.users", "app.products", "app.orders", "app.order_lines"))


def find_due() -> list[dict[str, int]]:
    """What is due now, in chunks: ranges of ids. With none, the run's result is that."""
    from backline.airflow.connections import app_dsn
    from backline.db.connect import session
    from backline.settings import settings
    from backline.subscriptions.process_due_subscriptions import BatchResult, due_chunks

    with session(app_dsn(), name="subscriptions") as connection:
        chunks = due_chunks(connection, datetime.now(UTC), settings().section(SubscriptionSettings))
    if not chunks:
        reporter().result({"chunks": 0, **BatchResult().as_dict()})
    return chunks


def renew_chunk_now(first: int, last: int) -> dict[str, Any]:
    """Renew what is due of one chunk; returns the tally."""
    from backline.airflow.connections import app_dsn
    from backline.db.connect import session
    from backline.settings import settings
    from backline.subscriptions.process_due_subscriptions import renew_chunk

    with session(app_dsn(), name="subscriptions") as connection:
        return renew_chunk(
            connection, first, last, datetime.now(UTC), settings().section(SubscriptionSettings)
        ).as_dict()


def report_renewals(chunks: Sequence[dict[str, int]], reports: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """Keep the sum of all chunks as the run's result.

    Rejected, once it is kept, if a subscription failed or a chunk did not end: its dead letter is how people hear of it.
    """
    from backline.errors import Rejected
    from backline.settings import settings
    from backline.subscriptions.process_due_subscriptions import BatchResult

    ended = list(reports)
    tally = BatchResult.sum_of(ended)
    result = {
        "chunks": len(chunks),
        "chunks_failed": len(chunks) - len(ended),
        "limit_reached": len(chunks) >= settings().section(SubscriptionSettings).max_chunks,
        **tally.as_dict(),
    }
    reporter().result(result)
    tally.raise_if_failed("renewed")
    if len(ended) < len(chunks):
        raise Rejected(
            f"{len(chunks) - len(ended)} of {len(chunks)} chunks did not end; their own logs say why. Run it again: it does "
            "only what is left"
        )
    return result


def renew_now(subscription_id: int) -> dict[str, Any]:
    """Renew one subscription if it is due; keeps what became of it as the run's result."""
    from backline.airflow.connections import app_dsn
    from backline.db.connect import session
    from backline.settings import settings
    from backline.subscriptions.renewal import renew

    with session(app_dsn(), name="subscription") as connection:
        renewal = renew(
            connection, subscription_id, datetime.now(UTC), settings().section(SubscriptionSettings)
        ).as_dict()
    reporter().result(renewal)
    return renewal


def remind_now() -> dict[str, Any]:
    """Remind of tomorrow's renewals; keeps the tally as the run's result, and raises as `report_renewals` does."""
    from backline.airflow.connections import app_dsn
    from backline.db.connect import session
    from backline.settings import settings
    from backline.subscriptions.send_renewal_reminders import send_reminders

    with session(app_dsn(), name="reminders") as connection:
        tally = send_reminders(connection, datetime.now(UTC), settings().section(SubscriptionSettings))
    reporter().result(tally.as_dict())
    tally.raise_if_failed("reminded of")
    return tally.as_dict()
