"""One reconciliation: the provider's list read page by page, ours held against it, the safe mended, the rest reported."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

from backline.db.connect import Session
from backline.db.statements import statement
from backline.payments.provider import PaymentSource, ProviderPayment
from backline.reconciliation.auto_fix import apply_fix
from backline.reconciliation.discrepancies import Discrepancy, missing_at_provider, page_discrepancies
from backline.reconciliation.notifications import enqueue_alerts
from backline.reconciliation.report import DiscrepancyFile, Findings, write_pdf
from backline.reconciliation.settings import ReconciliationSettings
from backline.settings import resolve_folder

PAGE_SIZE = 5_000
"""Payments in memory at once, of each side."""
MAX_TRACKED = 10_000
"""Differences of a run of which it is known whether they are new; a run with more has something else wrong with it."""
RETENTION_DAYS = 90.0


@dataclass(frozen=True, slots=True)
class ReconciliationReport:
    """What a run did, and where its files are."""

    findings: Findings
    csv: Path
    pdf: Path
    alerts: int

    def as_dict(self) -> dict[str, Any]:
        """For the run's result."""
        found = self.findings
        return {
            "provider": found.provider,
            "since": found.since.isoformat(),
            "until": found.until.isoformat(),
            "dry_run": found.dry_run,
            "theirs": found.provider_count,
            "ours": found.local_count,
            "found": {kind.value: count for kind, count in found.found_by_kind.items()},
            "fixed": found.fixed,
            "remaining": found.remaining,
            "csv": str(self.csv),
            "pdf": str(self.pdf),
            "alerts": self.alerts,
        }


def covered_until(connection: Session, provider: str) -> datetime | None:
    """Until when a provider has been reconciled; None before the first time."""
    [row] = connection.execute(statement("reconciliation", "covered_until"), {"provider": provider}).fetchall()
    until: datetime | None = row["until"]
    return until


def window_start(connection: Session, provider: str, config: ReconciliationSettings, now: datetime) -> datetime:
    """Where the next window begins: some overlap before the last one's end."""
    covered = covered_until(connection, provider)
    if covered is None:
        return now - timedelta(days=config.initial_window_days)
    return min(covered, now) - timedelta(hours=config.overlap_hours)


def reconcile(
    connection: Session,
    provider: str,
    source: PaymentSource,
    config: ReconciliationSettings,
    *,
    since: datetime,
    until: datetime,
    alert_to: Sequence[str] = (),
    dry_run: bool = False,
    progress: Callable[[float, str], object] = lambda _percent, _doing: None,
) -> ReconciliationReport:
    """Hold our payments of a window against the provider's list; `until` is now, or the time that the list is of.

    What is younger than `grace_seconds` before `until`, and on our side as old before `since`, is left to the windows
    beside it. Two at once are safe: what one has mended the other finds as it should be.
    """
    folder = resolve_folder(config.report_folder)
    path = folder / f"{provider}_{until:%Y%m%dT%H%M%S%f}.csv"
    settled = until - timedelta(seconds=config.grace_seconds)
    findings = Findings(provider, since, until, dry_run)
    left: list[Discrepancy] = []
    with DiscrepancyFile(path) as file:
        for one in _find_discrepancies(connection, source, findings, since, settled, until, config, progress):
            may_mend = not dry_run and findings.fixed < config.batch_limit
            is_mended = may_mend and apply_fix(connection, one, settled)
            findings.add(one, is_fixed=is_mended)
            file.add(one, is_fixed=is_mended)
            if not is_mended and len(left) < MAX_TRACKED:
                left.append(one)
    write_pdf(findings, path.with_suffix(".pdf"))
    alerts = 0 if dry_run else _finish(connection, findings, left, config, alert_to, path)
    return ReconciliationReport(findings, path, path.with_suffix(".pdf"), alerts)


def _find_discrepancies(
    connection: Session,
    source: PaymentSource,
    findings: Findings,
    since: datetime,
    settled: datetime,
    until: datetime,
    config: ReconciliationSettings,
    progress: Callable[[float, str], object],
) -> Iterator[Discrepancy]:
    seen = array("q")  # eight bytes a payment: all that grows with their number
    theirs = source.list_payments(since, until)
    while page := list(islice(theirs, PAGE_SIZE)):
        findings.provider_count += len(page)
        progress(min(60, findings.provider_count / 2000), f"{findings.provider_count} of the provider's payments read")
        matches = connection.execute(
            statement("reconciliation", "payment_match"), _match_values(findings.provider, page)
        ).fetchall()
        references = {place: one.reference for place, one in enumerate(page, 1)}
        seen.extend(
            match["payment_id"]
            for match in matches
            # One without an id may be given it below: then it is no longer missing there.
            if match["reference"] in (None, references[match["place"]])
        )
        yield from page_discrepancies(page, matches, settled)
    yield from _find_missing_at_provider(
        connection, findings, seen, since + timedelta(seconds=config.grace_seconds), settled, progress
    )


def _match_values(provider: str, page: Sequence[ProviderPayment]) -> dict[str, Any]:
    return {
        "provider": provider,
        "references": [one.reference for one in page],
        "orders": [one.order_id for one in page],
    }


def _find_missing_at_provider(
    connection: Session,
    findings: Findings,
    seen: array[int],
    since: datetime,
    until: datetime,
    progress: Callable[[float, str], object],
) -> Iterator[Discrepancy]:
    import numpy as np

    known = np.unique(np.array(seen, dtype=np.int64))
    after = 0
    while True:
        values = {"provider": findings.provider, "since": since, "until": until, "after": after, "page_size": PAGE_SIZE}
        rows = connection.execute(statement("reconciliation", "payment_page"), values).fetchall()
        if not rows:
            return
        findings.local_count += len(rows)
        progress(80, f"{findings.local_count} of our payments looked for")
        ids = np.array([row["payment_id"] for row in rows], dtype=np.int64)
        yield from (
            missing_at_provider(rows[place]) for place in np.flatnonzero(~np.isin(ids, known, assume_unique=True))
        )
        after = rows[-1]["payment_id"]


def _finish(
    connection: Session,
    findings: Findings,
    left: Sequence[Discrepancy],
    config: ReconciliationSettings,
    alert_to: Sequence[str],
    path: Path,
) -> int:
    """Note what was covered and found, and tell of what is new, in one transaction; returns how many were told."""
    values = {
        "provider": findings.provider,
        "since": findings.since,
        "until": findings.until,
        "provider_count": findings.provider_count,
        "local_count": findings.local_count,
        "found": json.dumps({kind.value: count for kind, count in findings.found_by_kind.items()}),
        "fixed": findings.fixed,
        "remaining": findings.remaining,
        "report": path.name,
    }
    kept = {
        "provider": findings.provider,
        "kinds": [one.kind.value for one in left],
        "references": [one.reference for one in left],
        "summaries": [one.summary for one in left],
    }
    with connection.transaction():
        connection.execute(statement("reconciliation", "run_insert"), values)
        fresh = [row["is_new"] for row in connection.execute(statement("reconciliation", "discrepancy_upsert"), kept)]
        forget = {"provider": findings.provider, "retention_days": RETENTION_DAYS}
        connection.execute(statement("reconciliation", "discrepancy_prune"), forget)
        if findings.remaining <= config.alert_threshold or not any(fresh):
            return 0
        enqueue_alerts(connection, findings, left, sum(fresh), path, alert_to)
    return len(alert_to)
