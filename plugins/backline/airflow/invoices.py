"""The task of the job that makes invoices."""

from __future__ import annotations

from typing import Any

from airflow.sdk import Asset, AssetOrTimeSchedule, CronTriggerTimetable

ORDERS_PAID = Asset(name="orders paid", uri="backline://commerce/orders-paid")
"""Whoever books a payment or a refund says so with this asset (`outlets=[ORDERS_PAID]`, or over Airflow's API)."""


def on_orders_paid(cron: str) -> AssetOrTimeSchedule:
    """A schedule: when orders were paid, and by cron besides, because events may be lost; the rows are the truth."""
    return AssetOrTimeSchedule(assets=ORDERS_PAID, timetable=CronTriggerTimetable(cron, timezone="UTC"))


def make_now(order_id: int | None) -> dict[str, Any]:
    """Make the papers of one order, or of all that lack some; returns the report, which is the run's result too."""
    from backline.airflow.connections import app_dsn
    from backline.airflow.jobs import reporter
    from backline.db.session import session
    from backline.invoices.making import MakingReport, check, make_due, make_for_order, paper_folder
    from backline.settings import settings

    config, tell = settings().invoices, reporter()
    with session(app_dsn(), name="invoices") as connection:
        if order_id is None:
            report = make_due(connection, config, paper_folder(config), tell.progress)
        else:
            made = make_for_order(connection, order_id, config, paper_folder(config))
            report = MakingReport(1, len(made), sum(one.receipt_id is not None for one in made), made)
    tell.result(report.as_dict())
    check(report)
    return report.as_dict()
