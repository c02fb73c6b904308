"""The report: a CSV file with every discrepancy, and a PDF of one or two pages with counts, a chart and examples."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from backline.files import csv_cell, write_file
from backline.reconciliation.discrepancies import Discrepancy, DiscrepancyKind
from backline.rendering.html import create_html_environment, render_pdf
from backline.settings import ROOT

TEMPLATE_FOLDER = ROOT / "include" / "templates" / "reconciliation"
FOLDER_SETTING = "reconciliation.report_folder"
COLUMNS = (
    "kind", "reference", "payment_id", "order_id", "amount_minor", "currency", "created_at", "local", "provider", "fixed",
)  # fmt: skip
MAX_LISTED = 40
"""Remaining discrepancies that the PDF lists; the CSV file has all."""
KIND_LABELS: Mapping[DiscrepancyKind, str] = {kind: kind.value.replace("_", " ") for kind in DiscrepancyKind}


@dataclass(slots=True)
class Findings:
    """What a reconciliation found, counted."""

    provider: str
    since: datetime
    until: datetime
    dry_run: bool = False
    provider_count: int = 0
    local_count: int = 0
    found_by_kind: Counter[DiscrepancyKind] = field(default_factory=Counter)
    fixed_by_kind: Counter[DiscrepancyKind] = field(default_factory=Counter)
    examples: list[Discrepancy] = field(default_factory=list)
    """The first discrepancies that remain."""

    def add(self, discrepancy: Discrepancy, *, is_fixed: bool) -> None:
        """Count one discrepancy."""
        self.found_by_kind[discrepancy.kind] += 1
        self.fixed_by_kind[discrepancy.kind] += is_fixed
        if not is_fixed and len(self.examples) < MAX_LISTED:
            self.examples.append(discrepancy)

    @property
    def fixed(self) -> int:
        """Discrepancies that were fixed."""
        return self.fixed_by_kind.total()

    @property
    def remaining(self) -> int:
        """Discrepancies that need review."""
        return self.found_by_kind.total() - self.fixed

    def summary(self) -> dict[str, object]:
        """What the result and the stored run have in common."""
        return {
            "provider": self.provider, "since": self.since, "until": self.until, "provider_count": self.provider_count,
            "local_count": self.local_count, "fixed": self.fixed, "remaining": self.remaining,
        }  # fmt: skip


def csv_row(one: Discrepancy, *, is_fixed: bool) -> list[object]:
    """A discrepancy as a line of the CSV file."""
    values = (
        one.kind.value, one.reference, one.payment_id, one.order_id, one.amount_minor, one.currency,
        one.created_at.isoformat(), one.local_value, one.provider_value, "yes" if is_fixed else "no",
    )  # fmt: skip
    return [csv_cell(value) for value in values]


def write_pdf(findings: Findings, path: Path) -> None:
    """Write the PDF beside the CSV file."""
    html = create_html_environment(TEMPLATE_FOLDER).get_template("report.html").render(
        findings=findings, labels=KIND_LABELS, kinds=list(DiscrepancyKind), chart=chart_data_url(findings),
        file=path.with_suffix(".csv").name,
    )  # fmt: skip
    write_file(path, render_pdf(html, "pdf/ua-1"), setting=FOLDER_SETTING)


def chart_data_url(findings: Findings) -> str:
    """A bar chart of the discrepancies by kind, as the data: URL of an SVG image: fixed ones dark, remaining ones light."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    kinds = list(reversed(DiscrepancyKind))
    labels = [KIND_LABELS[kind] for kind in kinds]
    totals = [findings.found_by_kind[kind] for kind in kinds]
    fixed = [findings.fixed_by_kind[kind] for kind in kinds]
    remaining = [total - count for total, count in zip(totals, fixed, strict=True)]
    # Text stays text, and the same findings give the same image.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "backline", "font.size": 9, "font.family": "DejaVu Sans"}):
        figure = Figure(figsize=(6.6, 2.5), layout="constrained")
        axes = figure.add_subplot()
        axes.barh(labels, fixed, color="#2f6f5e", label="fixed")
        bars = axes.barh(labels, remaining, left=fixed, color="#c46a2b", label="needs review")
        axes.bar_label(bars, labels=[f"{total:,}" for total in totals], padding=4)
        axes.set_xlim(0, max(1, *totals) * 1.15)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("discrepancies")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False)
        image = io.StringIO()
        figure.savefig(image, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(image.getvalue().encode()).decode()
