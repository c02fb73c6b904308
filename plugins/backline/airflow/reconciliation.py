"""The task of the job that reconciles payments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from backline.reconciliation.settings import ReconciliationSettings


def reconcile_now(provider: str, file: str | None, days: float | None, *, dry_run: bool) -> dict[str, Any]:
    """Reconcile with the provider's list; returns the report, which is the run's result too.

    `file`: its name in the folder of lists; else the newest `<provider>*.csv` there. `days`: back from now, instead of
    the window that follows the last one. The task is skipped when there is no list, or none that is new.
    """
    from datetime import UTC, datetime, timedelta

    from airflow.sdk.exceptions import AirflowSkipException

    from backline.airflow.connections import app_dsn
    from backline.airflow.jobs import reporter
    from backline.db.session import session
    from backline.reconciliation.csv_list import CsvPayments
    from backline.reconciliation.reconcile import covered_until, reconcile, window
    from backline.settings import settings

    config, tell = settings().reconciliation, reporter()
    path = _list_file(provider, file, config)
    until = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    with session(app_dsn(), name="reconciliation") as connection:
        covered = covered_until(connection, provider)
        if file is None and days is None and covered is not None and covered >= until:
            raise AirflowSkipException(f"{path.name} has been reconciled; put a newer list beside it")
        since = window(connection, provider, config, until) if days is None else until - timedelta(days=days)
        report = reconcile(
            connection, provider, CsvPayments(path), config, since=since, until=until,
            alert_to=settings().alerts.recipients, dry_run=dry_run, tell=tell.progress,
        )  # fmt: skip
    tell.result(report.as_dict())
    return report.as_dict()


def _list_file(provider: str, file: str | None, config: ReconciliationSettings) -> Path:
    from airflow.sdk.exceptions import AirflowSkipException

    from backline.errors import InvalidInput
    from backline.reconciliation.reconcile import folder_of

    folder = folder_of(config.list_folder)
    if file is not None:
        path = folder / file
        if "/" in file or "\\" in file or not path.is_file():
            raise InvalidInput("file", f"there is no file {file!r} in {folder}; put the provider's list there")
        return path
    found = sorted(folder.glob(f"{provider}*.csv"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise AirflowSkipException(
            f"no list of {provider}'s payments: put its export as {provider}_<day>.csv into {folder} "
            "(reconciliation.list_folder; docs/commerce.md says which columns it needs)"
        )
    return found[-1]
