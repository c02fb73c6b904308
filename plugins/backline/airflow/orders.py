"""The tasks of the jobs about orders."""

from __future__ import annotations

from typing import Any

from backline.orders.settings import OrderSettings


def process_now(order_id: int) -> dict[str, str]:
    """Move one order as far as it goes; returns what became of it."""
    from backline.airflow.connections import app_dsn
    from backline.airflow.jobs import reporter
    from backline.airflow.payments import provider
    from backline.db.connect import session
    from backline.orders.saga import STEP_PROGRESS, run_saga
    from backline.settings import settings

    here = reporter()

    def doing(what: str) -> None:
        here.progress(STEP_PROGRESS[what], what)

    with session(app_dsn(), name="orders") as database:
        processed = run_saga(database, provider(), order_id, settings().section(OrderSettings), doing).as_dict()
    here.result(processed)
    return processed


def process_pending_now() -> dict[str, Any]:
    """Move along orders that have stopped, and tell of stuck ones; returns the report."""
    from backline.airflow.connections import app_dsn
    from backline.airflow.jobs import reporter
    from backline.airflow.payments import provider
    from backline.db.connect import session
    from backline.orders.sweep import sweep_orders
    from backline.settings import settings

    config, here = settings(), reporter()
    with session(app_dsn(), name="orders") as database:
        found = sweep_orders(
            database, provider(), config.section(OrderSettings), config.alerts.recipients, here.progress
        ).as_dict()
    here.result(found)
    return found


def send_reminders_now() -> dict[str, Any]:
    """Send the order reminders that are due; returns the report."""
    from backline.airflow.connections import app_dsn
    from backline.airflow.jobs import reporter
    from backline.db.connect import session
    from backline.orders.send_order_reminders import send_reminders
    from backline.settings import settings

    here = reporter()
    with session(app_dsn(), name="reminders") as database:
        report = send_reminders(database, settings().section(OrderSettings), here.progress).as_dict()
    here.result(report)
    return report
