"""The report: every difference as a line of a CSV file, and a PDF of one or two pages with counts, a chart and the first ones."""

from __future__ import annotations

import base64
import csv
import io
import os
import uuid
from collections import Counter
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from backline.errors import Misconfigured
from backline.reconciliation.discrepancies import Discrepancy, DiscrepancyKind
from backline.rendering.html import create_html_environment, render_pdf
from backline.settings import ROOT

TEMPLATE_FOLDER = ROOT / "include" / "templates" / "reconciliation"
COLUMNS = (
    "kind", "reference", "payment_id", "order_id", "amount_minor", "currency", "created_at", "ours", "theirs", "mended",
)  # fmt: skip
MAX_LISTED = 40
"""Differences that are left, which the PDF lists; the CSV file has all."""
KIND_LABELS: Mapping[DiscrepancyKind, str] = {
    DiscrepancyKind.MISSING_HERE: "missing here",
    DiscrepancyKind.MISSING_THERE: "missing there",
    DiscrepancyKind.AMOUNT: "amount",
    DiscrepancyKind.CURRENCY: "currency",
    DiscrepancyKind.STATUS: "status",
    DiscrepancyKind.DUPLICATE: "duplicate",
}


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
    """Of those that are left to people."""

    def add(self, difference: Discrepancy, *, is_fixed: bool) -> None:
        """Count one; the first ones that are left are kept for the PDF."""
        self.found_by_kind[difference.kind] += 1
        self.fixed_by_kind[difference.kind] += is_fixed
        if not is_fixed and len(self.examples) < MAX_LISTED:
            self.examples.append(difference)

    @property
    def fixed(self) -> int:
        """Differences that were mended."""
        return self.fixed_by_kind.total()

    @property
    def remaining(self) -> int:
        """Differences that are left to people."""
        return self.found_by_kind.total() - self.fixed


class DiscrepancyFile(AbstractContextManager["DiscrepancyFile"]):
    """The CSV file, written line by line; it is there under its name once it is whole, and not at all after an error."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        self._file: IO[str] | None = None

    def __enter__(self) -> Self:
        """Misconfigured names a folder that cannot be written."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self._draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except PermissionError as exc:
            raise Misconfigured(
                f"{self.path.parent}: {exc.strerror}; make it writable, or set reconciliation.report_folder to a folder that is"
            ) from exc
        self._file = os.fdopen(descriptor, "w", encoding="utf-8", newline="")
        self._writer = csv.writer(self._file)
        self._writer.writerow(COLUMNS)
        return self

    def add(self, one: Discrepancy, *, is_fixed: bool) -> None:
        """Write one line."""
        values = (
            one.kind.value, one.reference, one.payment_id, one.order_id, one.amount_minor, one.currency,
            one.created_at.isoformat(), one.local_value, one.provider_value, "yes" if is_fixed else "no",
        )  # fmt: skip
        self._writer.writerow([_escape_formula(value) for value in values])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()
        if error is None:
            self._draft.replace(self.path)
        self._draft.unlink(missing_ok=True)


def write_pdf(findings: Findings, path: Path) -> None:
    """Write the PDF beside the CSV file, whole or not at all."""
    draft = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        draft.write_bytes(render_pdf(render_html(findings, path), "pdf/ua-1"))
        draft.chmod(0o600)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def render_html(findings: Findings, path: Path) -> str:
    """The HTML that the PDF is made of."""
    return (
        create_html_environment(TEMPLATE_FOLDER)
        .get_template("report.html")
        .render(
            findings=findings,
            names=KIND_LABELS,
            kinds=list(DiscrepancyKind),
            chart=chart_data_url(findings),
            file=path.with_suffix(".csv").name,
        )
    )


def chart_data_url(findings: Findings) -> str:
    """The differences by kind as the URL of an SVG: mended ones dark, those that are left light."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    kinds = list(reversed(DiscrepancyKind))
    mended = [findings.fixed_by_kind[kind] for kind in kinds]
    left = [findings.found_by_kind[kind] - findings.fixed_by_kind[kind] for kind in kinds]
    # Text stays text, and the same findings give the same picture.
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "backline", "font.size": 9, "font.family": "DejaVu Sans"}):
        figure = Figure(figsize=(6.6, 2.5), layout="constrained")
        axes = figure.add_subplot()
        axes.barh([KIND_LABELS[kind] for kind in kinds], mended, color="#2f6f5e", label="mended")
        bars = axes.barh(
            [KIND_LABELS[kind] for kind in kinds], left, left=mended, color="#c46a2b", label="left to people"
        )
        totals = [f"{one + other:,}" for one, other in zip(mended, left, strict=True)]
        axes.bar_label(bars, labels=totals, padding=4)
        axes.set_xlim(0, max(1, *(findings.found_by_kind[kind] for kind in kinds)) * 1.15)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("differences")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False)
        picture = io.StringIO()
        figure.savefig(picture, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(picture.getvalue().encode()).decode()


def _escape_formula(value: object) -> object:
    # What begins so is a formula to spreadsheets, and references are the provider's own text.
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
