"""Alerts about discrepancies that need review."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from backline.jobs.job import Job
from backline.reconciliation.discrepancies import Discrepancy
from backline.reconciliation.report import KIND_LABELS, Findings
from backline.reconciliation.settings import ReconciliationSettings

MAX_EXAMPLES = 5
"""Discrepancies that an alert names."""


def send_alerts(
    job: Job[ReconciliationSettings], findings: Findings, remaining: Sequence[Discrepancy], new: int, path: Path
) -> int:
    """Enqueue one alert for each operator, in the current transaction; returns how many."""
    payload = {"context": _context(findings, remaining, new, path)}
    for recipient in job.alert_recipients:
        digest = hashlib.sha256(f"{recipient}/{json.dumps(payload)}".encode()).hexdigest()
        job.enqueue("urgent_email", recipient, payload, key=f"reconciliation/{digest}")
    return len(job.alert_recipients)


def _context(findings: Findings, remaining: Sequence[Discrepancy], new: int, path: Path) -> dict[str, Any]:
    count = findings.remaining
    by_kind = findings.found_by_kind - findings.fixed_by_kind
    examples = {f"{KIND_LABELS[one.kind]} {one.reference}": one.summary for one in remaining[:MAX_EXAMPLES]}
    return {
        "title": f"Payments differ from {findings.provider}'s statement",
        "summary": (
            f"{count} {'discrepancy needs' if count == 1 else 'discrepancies need'} review, {new} of them new; "
            f"{findings.fixed} fixed. Window: {findings.since:%Y-%m-%d %H:%M} to {findings.until:%Y-%m-%d %H:%M} UTC."
        ),
        "severity": "warning",
        "details": {**{KIND_LABELS[kind]: str(number) for kind, number in by_kind.items()}, **examples},
        "action": f"Read {path.with_suffix('.pdf').name}, or every discrepancy in {path.name}, in the folder {path.parent}.",
    }
