"""The tasks of the jobs about orders."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from backline.orders.charging import Charging


def process_now(order_id: int) -> dict[str, str]:
    """Move one order as far as it goes; returns what became of it. Skipped while nothing takes the money."""
    from backline.airflow.connections import app_dsn
    from backline.airflow.jobs import reporter
    from backline.db.session import session
    from backline.orders.saga import PROGRESS, process_order
    from backline.settings import settings

    charging, here = _charging(), reporter()

    def doing(what: str) -> None:
        here.progress(PROGRESS[what], what)

    with session(app_dsn(), name="orders") as database:
        processed = process_order(database, charging, order_id, settings().orders, doing).as_dict()
    here.result(processed)
    return processed


def process_pending_now() -> dict[str, Any]:
    """Move along orders that have stopped, and tell of stuck ones; returns the report. Skipped as `process_now`."""
    from backline.airflow.connections import app_dsn
    from backline.airflow.jobs import reporter
    from backline.db.session import session
    from backline.orders.pending import process_pending
    from backline.settings import settings

    config, here = settings(), reporter()
    with session(app_dsn(), name="orders") as database:
        found = process_pending(database, _charging(), config.orders, config.alerts.recipients, here.progress).as_dict()
    here.result(found)
    return found


def send_reminders_now() -> dict[str, Any]:
    """Send the order reminders that are due; returns the report."""
    from backline.airflow.connections import app_dsn
    from backline.airflow.jobs import reporter
    from backline.db.session import session
    from backline.orders.reminders import send_reminders
    from backline.settings import settings

    here = reporter()
    with session(app_dsn(), name="reminders") as database:
        report = send_reminders(database, settings().orders, here.progress).as_dict()
    here.result(report)
    return report


def _charging() -> Charging:
    from airflow.sdk.exceptions import AirflowSkipException

    from backline.errors import NotConfigured
    from backline.orders.charging import charging_of
    from backline.settings import settings

    try:
        return charging_of(settings().orders.charging)
    except NotConfigured as exc:
        raise AirflowSkipException(str(exc)) from None
