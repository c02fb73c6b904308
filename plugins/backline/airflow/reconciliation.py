"""The task of the job that reconciles payments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from backline.payments.provider import PaymentSource
    from backline.reconciliation.settings import ReconciliationSettings


def reconcile_now(provider: str, file: str | None, days: float | None, *, dry_run: bool) -> dict[str, Any]:
    """Reconcile with the provider's list; returns the report, which is the run's result too.

    The list is asked of Stripe's API, as of now; that of another provider, or with `file`, is a CSV file in the folder of
    lists (else the newest `<provider>*.csv` there), as of the time when it was written. `days`: back from then, instead of
    the window that follows the last one. The task is skipped where a list is missing, or none is new.
    """
    from datetime import timedelta

    from airflow.sdk.exceptions import AirflowSkipException

    from backline.airflow.connections import app_dsn
    from backline.airflow.jobs import reporter
    from backline.db.connect import session
    from backline.reconciliation.reconcile_payments import covered_until, reconcile, window_start
    from backline.settings import settings

    config, tell = settings().section(ReconciliationSettings), reporter()
    listed, until = _list(provider, file, config)
    with session(app_dsn(), name="reconciliation") as connection:
        covered = covered_until(connection, provider)
        if file is None and days is None and covered is not None and covered >= until:
            raise AirflowSkipException(f"the newest list of {provider} has been reconciled; put a newer one beside it")
        since = window_start(connection, provider, config, until) if days is None else until - timedelta(days=days)
        report = reconcile(
            connection, provider, listed, config, since=since, until=until,
            alert_to=settings().alerts.recipients, dry_run=dry_run, progress=tell.progress,
        )  # fmt: skip
    tell.result(report.as_dict())
    return report.as_dict()


def _list(provider: str, file: str | None, config: ReconciliationSettings) -> tuple[PaymentSource, datetime]:
    """The provider's list, and the time that it is of."""
    from datetime import UTC, datetime

    from airflow.sdk.exceptions import AirflowSkipException

    from backline.airflow.payments import provider as api
    from backline.errors import NotConfigured
    from backline.reconciliation.csv_statement import CsvStatement

    if provider == "stripe" and file is None:
        try:
            return api(), datetime.now(UTC)
        except NotConfigured as exc:
            raise AirflowSkipException(f"{exc}; or give a file") from None
    path = _list_file(provider, file, config)
    return CsvStatement(path), datetime.fromtimestamp(path.stat().st_mtime, UTC)


def _list_file(provider: str, file: str | None, config: ReconciliationSettings) -> Path:
    from airflow.sdk.exceptions import AirflowSkipException

    from backline.errors import InvalidInput
    from backline.settings import resolve_folder

    folder = resolve_folder(config.statement_folder)
    if file is not None:
        path = folder / file
        if "/" in file or "\\" in file or not path.is_file():
            raise InvalidInput("file", f"there is no file {file!r} in {folder}; put the provider's list there")
        return path
    found = sorted(folder.glob(f"{provider}*.csv"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise AirflowSkipException(
            f"no list of {provider}'s payments: put its export as {provider}_<day>.csv into {folder} "
            "(reconciliation.statement_folder; docs/commerce.md says which columns it needs)"
        )
    return found[-1]
