"""Compares payments with the provider's statement page by page, fixes safe discrepancies, and reports the rest."""

from __future__ import annotations

import csv
import hashlib
import json
from array import array
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path

from backline.db.connect import fetch_one
from backline.db.statements import statement
from backline.errors import NotConfigured, Skipped
from backline.files import atomic_text_file
from backline.jobs.batch import BatchResult
from backline.jobs.job import Job
from backline.payments.provider import PaymentSource
from backline.reconciliation.csv_statement import CsvStatement, find_statement
from backline.reconciliation.discrepancies import Discrepancy, LocalPayment, missing_at_provider, page_discrepancies
from backline.reconciliation.report import COLUMNS, FOLDER_SETTING, KIND_LABELS, Findings, csv_row, write_pdf
from backline.reconciliation.settings import ReconciliationSettings
from backline.settings import resolve_folder

PAGE_SIZE = 5_000
"""Payments of each side in memory at the same time."""
MAX_TRACKED = 10_000
"""Remaining discrepancies of a run that are checked for being new; a run with more has another problem."""
RETENTION_DAYS = 90.0
MAX_EXAMPLES = 5
"""Discrepancies that an alert names."""

ReconciliationJob = Job[ReconciliationSettings]


def reconcile_payments(job: ReconciliationJob) -> dict[str, object]:
    """Reconcile the payments of `provider` with its API, or with the CSV statement `file`.

    `days`: the window's length back from the statement's time, instead of the window that follows the last one. Skipped if
    there is no statement, or none newer than the last window.
    """
    provider = job.params.required("provider", str)
    file, days = job.params.optional("file", str), job.params.optional("days", float)
    source, until = _open_source(job, provider, file)
    covered = covered_until(job, provider)
    if file is None and days is None and covered is not None and covered >= until:
        raise Skipped(f"the newest statement of {provider} has been reconciled; add a newer one to its folder")
    since = window_start(covered, job.settings, until) if days is None else until - timedelta(days=days)
    return reconcile(job, provider, source, since, until)


def covered_until(job: ReconciliationJob, provider: str) -> datetime | None:
    """The end of the provider's last reconciled window, None before the first."""
    return fetch_one(job.database, statement("reconciliation", "covered_until"), datetime, {"provider": provider})


def window_start(covered: datetime | None, config: ReconciliationSettings, until: datetime) -> datetime:
    """Where a window begins: some overlap before the end of the last one."""
    if covered is None:
        return until - timedelta(days=config.initial_window_days)
    return min(covered, until) - timedelta(hours=config.overlap_hours)


def reconcile(
    job: ReconciliationJob, provider: str, source: PaymentSource, since: datetime, until: datetime
) -> dict[str, object]:
    """Compare the payments of a window; `until` is now, or the time of the statement.

    Payments younger than `grace_seconds` before `until` are left to the next window, local ones of as long after `since` to
    the previous one. Concurrent runs are safe: what one has fixed is no discrepancy for the other.
    """
    path = resolve_folder(job.settings.report_folder) / f"{provider}_{until:%Y%m%dT%H%M%S%f}.csv"
    findings = Findings(provider, since, until, job.dry_run)
    fixes, remaining = BatchResult(), list[Discrepancy]()
    with atomic_text_file(path, setting=FOLDER_SETTING) as file:
        lines = csv.writer(file)
        lines.writerow(COLUMNS)
        for page in _find_discrepancies(job, source, findings):
            fixed = _fix(job, page, findings, fixes)
            for discrepancy in page:
                is_fixed = discrepancy in fixed
                findings.add(discrepancy, is_fixed=is_fixed)
                lines.writerow(csv_row(discrepancy, is_fixed=is_fixed))
                if not is_fixed and len(remaining) < MAX_TRACKED:
                    remaining.append(discrepancy)
    write_pdf(findings, path.with_suffix(".pdf"))
    return {
        **findings.summary(),
        "dry_run": job.dry_run,
        "found": findings.found_by_kind,
        "fixes": fixes,
        "csv": path,
        "pdf": path.with_suffix(".pdf"),
        "alerts": 0 if job.dry_run else _finish(job, findings, remaining, path),
    }


def _open_source(job: ReconciliationJob, provider: str, file: str | None) -> tuple[PaymentSource, datetime]:
    """The provider's payments, and the time as of which they are listed."""
    if provider == "stripe" and file is None:
        try:
            return job.provider(provider), job.now
        except NotConfigured as exc:
            raise Skipped(f"{exc}; or give a file") from None
    path = find_statement(resolve_folder(job.settings.statement_folder), provider, file)
    return CsvStatement(path), datetime.fromtimestamp(path.stat().st_mtime, UTC)


def _find_discrepancies(
    job: ReconciliationJob, source: PaymentSource, findings: Findings
) -> Iterator[list[Discrepancy]]:
    """The discrepancies, a page at a time: first of the provider's payments, then of local ones that it did not list."""
    grace = timedelta(seconds=job.settings.grace_seconds)
    seen = array("q")  # eight bytes for each payment: all that grows with their number
    payments = source.list_payments(findings.since, findings.until)
    while page := list(islice(payments, PAGE_SIZE)):
        findings.provider_count += len(page)
        job.progress(
            min(60, findings.provider_count / 2000), f"{findings.provider_count} payments of the provider read"
        )
        references, orders = [payment.reference for payment in page], [payment.order_id for payment in page]
        matches = job.rows(
            statement("reconciliation", "payment_match"), LocalPayment,
            {"provider": findings.provider, "references": references, "orders": orders},
        )  # fmt: skip
        # A match without an id may get it when it is fixed: then it is not missing at the provider.
        seen.extend(match.payment_id for match in matches if match.reference in (None, references[match.position - 1]))
        yield list(page_discrepancies(page, matches, findings.until - grace))
    yield from _find_missing_at_provider(job, findings, seen, findings.since + grace, findings.until - grace)


def _find_missing_at_provider(
    job: ReconciliationJob, findings: Findings, seen: array[int], since: datetime, until: datetime
) -> Iterator[list[Discrepancy]]:
    import numpy as np

    known = np.unique(np.array(seen, dtype=np.int64))
    after_id = 0
    while True:
        values = {
            "provider": findings.provider, "since": since, "until": until, "after_id": after_id, "batch_limit": PAGE_SIZE,
        }  # fmt: skip
        payments = job.rows(statement("reconciliation", "payment_page"), LocalPayment, values)
        if not payments:
            return
        findings.local_count += len(payments)
        job.progress(80, f"{findings.local_count} local payments compared")
        ids = np.array([payment.payment_id for payment in payments], dtype=np.int64)
        missing = np.flatnonzero(~np.isin(ids, known, assume_unique=True))
        yield [missing_at_provider(payments[index]) for index in missing]
        after_id = payments[-1].payment_id


def _fix(
    job: ReconciliationJob, page: Sequence[Discrepancy], findings: Findings, fixes: BatchResult
) -> set[Discrepancy]:
    """Record the provider's captures of open payments, as far as the run's limit allows; returns what was fixed.

    Payment, attempt and order change in one transaction, if under their locks amount and currency agree, the order is
    unpaid, and no attempt started within the grace period. Everything else, refunds included, is left to people.
    """
    fixed: set[Discrepancy] = set()

    def fix(discrepancy: Discrepancy) -> str:
        values = {
            "payment_id": discrepancy.payment_id, "reference": discrepancy.reference,
            "amount_minor": discrepancy.amount_minor, "currency": discrepancy.currency,
            "grace_cutoff": findings.until - timedelta(seconds=job.settings.grace_seconds),
        }  # fmt: skip
        with job.transaction():
            if not (
                job.rows(statement("reconciliation", "payment_lock"), int, values)
                and job.rows(statement("reconciliation", "payment_capture"), int, values)
            ):
                return "not_safe"
        fixed.add(discrepancy)
        return "fixed"

    safe = [discrepancy for discrepancy in page if discrepancy.is_safe_to_fix]
    if safe and not job.dry_run:
        limit = max(0, job.settings.batch_limit - findings.fixed)
        fixes.add(job.run_each(safe, fix, key=lambda one: one.reference, limit=limit, transactional=False))
    return fixed


def _finish(job: ReconciliationJob, findings: Findings, remaining: Sequence[Discrepancy], path: Path) -> int:
    """Record the window and its discrepancies and alert about new ones, in one transaction; returns the number of alerts."""
    run = {**findings.summary(), "discrepancies": json.dumps(findings.found_by_kind), "report": path.name}
    found = {
        "provider": findings.provider,
        "kinds": [discrepancy.kind.value for discrepancy in remaining],
        "references": [discrepancy.reference for discrepancy in remaining],
        "summaries": [discrepancy.summary for discrepancy in remaining],
    }
    with job.transaction():
        job.database.execute(statement("reconciliation", "run_insert"), run)
        new = sum(job.rows(statement("reconciliation", "discrepancy_upsert"), bool, found))
        old = {"provider": findings.provider, "retention_days": RETENTION_DAYS}
        job.database.execute(statement("reconciliation", "discrepancy_prune"), old)
        if findings.remaining <= job.settings.alert_threshold or not new:
            return 0
        return _send_alerts(job, findings, remaining, new, path)


def _send_alerts(
    job: ReconciliationJob, findings: Findings, remaining: Sequence[Discrepancy], new: int, path: Path
) -> int:
    """Enqueue one alert for each operator, in the current transaction; returns how many."""
    count = findings.remaining
    by_kind = findings.found_by_kind - findings.fixed_by_kind
    examples = {f"{KIND_LABELS[one.kind]} {one.reference}": one.summary for one in remaining[:MAX_EXAMPLES]}
    context = {
        "title": f"Payments differ from {findings.provider}'s statement",
        "summary": (
            f"{count} {'discrepancy needs' if count == 1 else 'discrepancies need'} review, {new} of them new; "
            f"{findings.fixed} fixed. Window: {findings.since:%Y-%m-%d %H:%M} to {findings.until:%Y-%m-%d %H:%M} UTC."
        ),
        "severity": "warning",
        "details": {**{KIND_LABELS[kind]: str(number) for kind, number in by_kind.items()}, **examples},
        "action": f"Read {path.with_suffix('.pdf').name}, or every discrepancy in {path.name}, in the folder {path.parent}.",
    }
    payload = {"context": context}
    for recipient in job.alert_recipients:
        digest = hashlib.sha256(f"{recipient}/{json.dumps(payload)}".encode()).hexdigest()
        job.enqueue("urgent_email", recipient, payload, key=f"reconciliation:{digest}")
    return len(job.alert_recipients)
