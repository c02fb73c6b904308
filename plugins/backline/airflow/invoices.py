"""The task of the job that makes invoices."""

from __future__ import annotations

from typing import Any

from airflow.sdk import AssetOrTimeSchedule

from backline.airflow.row_bell import RowBell, on_rows
from backline.settings import folder_of, settings


def on_orders_paid(cron: str) -> AssetOrTimeSchedule:
    """A schedule: when an order has become paid or refunded, whoever booked it."""
    bell = RowBell("invoices", "order_is_new", settings().invoices.look_seconds)
    return on_rows("orders paid", "backline://bell/orders-paid", bell, cron)


def make_now(order_id: int | None) -> dict[str, Any]:
    """Make the papers of one order, or of all that lack some; returns the report, which is the run's result too."""
    from backline.airflow.connections import app_dsn
    from backline.airflow.jobs import reporter
    from backline.db.session import session
    from backline.invoices.making import MakingReport, check, make_due, make_for_order

    config, tell = settings().invoices, reporter()
    with session(app_dsn(), name="invoices") as connection:
        if order_id is None:
            report = make_due(connection, config, folder_of(config.folder), tell.progress)
        else:
            made = make_for_order(connection, order_id, config, folder_of(config.folder))
            report = MakingReport(1, len(made), sum(one.receipt_id is not None for one in made), made)
    tell.result(report.as_dict())
    check(report)
    return report.as_dict()
