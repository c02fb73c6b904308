"""The alert about discrepancies that a reconciliation left open."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from backline.db.connect import Session
from backline.outbox.submission import enqueue
from backline.reconciliation.discrepancies import Discrepancy
from backline.reconciliation.report import KIND_LABELS, Findings

MAX_ALERT_EXAMPLES = 5
"""Discrepancies that an alert names."""


def enqueue_alerts(
    connection: Session,
    findings: Findings,
    left: Sequence[Discrepancy],
    fresh: int,
    path: Path,
    recipients: Sequence[str],
) -> None:
    """Tell each operator, in the caller's transaction; once per report."""
    payload = {"context": _alert_context(findings, left, fresh, path)}
    for recipient in recipients:
        digest = hashlib.sha256(f"{findings.provider}/{path.name}/{recipient}".encode()).hexdigest()
        enqueue(connection, "urgent_email", recipient, payload, key=f"reconciliation/{digest}")


def _alert_context(findings: Findings, left: Sequence[Discrepancy], fresh: int, path: Path) -> dict[str, Any]:
    count = findings.remaining
    counts = {
        KIND_LABELS[kind]: findings.found_by_kind[kind] - findings.fixed_by_kind[kind]
        for kind in findings.found_by_kind
    }
    examples = {f"{KIND_LABELS[one.kind]} {one.reference}": one.summary for one in left[:MAX_ALERT_EXAMPLES]}
    return {
        "title": f"Payments differ from {findings.provider}'s list",
        "summary": (
            f"{count} {'difference is' if count == 1 else 'differences are'} left to people, {fresh} of them new; "
            f"{findings.fixed} mended. Window: {findings.since:%Y-%m-%d %H:%M} to {findings.until:%Y-%m-%d %H:%M} UTC."
        ),
        "severity": "warning",
        "details": {**{name: str(number) for name, number in counts.items() if number}, **examples},
        "action": f"Read {path.with_suffix('.pdf').name}, or every difference in {path.name}, in the folder {path.parent}.",
    }
