"""The task of the job that makes invoices."""

from __future__ import annotations

from typing import Any

from airflow.sdk import AssetOrTimeSchedule

from backline.airflow.sql_trigger import SqlTrigger, sql_schedule
from backline.invoices.settings import InvoiceSettings
from backline.settings import resolve_folder, settings


def on_orders_paid(cron: str) -> AssetOrTimeSchedule:
    """A schedule: when an order has become paid or refunded, whoever booked it."""
    bell = SqlTrigger("invoices", "order_needs_documents", settings().section(InvoiceSettings).poll_interval_seconds)
    return sql_schedule("orders paid", "backline://bell/orders-paid", bell, cron)


def make_now(order_id: int | None) -> dict[str, Any]:
    """Make the papers of one order, or of all that lack some; returns the report, which is the run's result too."""
    from backline.airflow.connections import app_dsn
    from backline.airflow.jobs import reporter
    from backline.db.connect import session
    from backline.invoices.generate import GenerationReport, generate_due, generate_for_order, raise_if_failed

    config, tell = settings().section(InvoiceSettings), reporter()
    with session(app_dsn(), name="invoices") as connection:
        if order_id is None:
            report = generate_due(connection, config, resolve_folder(config.folder), tell.progress)
        else:
            made = generate_for_order(connection, order_id, config, resolve_folder(config.folder))
            report = GenerationReport(1, len(made), sum(one.receipt_id is not None for one in made), made)
    tell.result(report.as_dict())
    raise_if_failed(report)
    return report.as_dict()
