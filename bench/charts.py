"""Charts of the results as small SVG files: horizontal bars that are readable in grey.

`python -m bench.charts RESULTS.json FOLDER`
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from statistics import median
from typing import Any

WIDTH, LABEL_WIDTH, BAR_HEIGHT, GAP = 760, 210, 18, 8
DARK, LIGHT, OURS = "#9a9a9a", "#d0d0d0", "#2f2f2f"
DISPLAY_NAMES = {
    "backline": "Backline",
    "celery": "Celery, as written",
    "celery_best": "Celery, at its best",
    "procrastinate": "procrastinate",
    "pgqueuer": "pgqueuer",
    "ceiling": "C client (smtp-source)",
    "plain": "plain row",
    "bare": "bare Airflow",
}


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar; bars of one group are closer together."""

    label: str
    value: float
    fill: str = DARK
    starts_group: bool = True


def bar_chart(title: str, unit: str, bars: Sequence[Bar], *, limit: float | None = None) -> str:
    """An SVG of horizontal bars with their values; `limit` draws a dashed line at that value."""
    largest = max([bar.value for bar in bars] + ([limit] if limit else [])) or 1.0
    scale = (WIDTH - LABEL_WIDTH - 90) / largest
    head = 52 if limit else 38
    parts: list[str] = []
    top = head
    for number, bar in enumerate(bars):
        top += (GAP if bar.starts_group else 2) if number else 0
        length = max(1.0, bar.value * scale)
        middle = top + BAR_HEIGHT / 2 + 4
        parts += [
            f'<text x="{LABEL_WIDTH - 8}" y="{middle:.0f}" text-anchor="end">{escape(bar.label)}</text>',
            f'<rect x="{LABEL_WIDTH}" y="{top}" width="{length:.1f}" height="{BAR_HEIGHT}" fill="{bar.fill}"/>',
            f'<text x="{LABEL_WIDTH + length + 6:.1f}" y="{middle:.0f}">{_format_number(bar.value)}</text>',
        ]
        top += BAR_HEIGHT
    if limit:
        x = LABEL_WIDTH + limit * scale
        parts.append(
            f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{head - 6}" y2="{top + 6}" stroke="#000" stroke-dasharray="5 4"/>'
            f'<text x="{x:.1f}" y="{head - 10}" text-anchor="middle">limit {_format_number(limit)}</text>'
        )
    height = top + 14
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
        f' role="img" aria-label="{escape(title)}" font-family="sans-serif" font-size="13" fill="#111">\n'
        f'<rect width="{WIDTH}" height="{height}" fill="#fff" stroke="none"/>\n'
        f'<text x="12" y="22" font-size="15" font-weight="bold">{escape(title)}</text>\n'
        f'<text x="{WIDTH - 12}" y="22" text-anchor="end" fill="#444">{escape(unit)}</text>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def build_charts(benches: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """All charts that these results allow: file name → SVG."""
    builders: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "latency": _latency,
        "throughput": _throughput,
        "channels": _channels,
        "enqueue": _enqueue,
        "commits": lambda found: _rates(
            "Commits: an order and a second row, 16 producers", "a second", found["commits_per_second"]
        ),
        "growth": _growth,
        "parse": _parse,
        "idle-cpu": lambda found: _idle(found, 0, "Idle: CPU by service", "% of one core"),
        "idle-memory": lambda found: _idle(found, 1, "Idle: memory by service", "MiB (PSS)"),
    }
    source = {"commits": "enqueue", "idle-cpu": "idle", "idle-memory": "idle"}
    return {
        f"{name}.svg": build(benches[source.get(name, name)])
        for name, build in builders.items()
        if source.get(name, name) in benches
    }


def write_charts(benches: Mapping[str, Mapping[str, Any]], folder: Path) -> list[str]:
    """Write all charts; returns the files' names."""
    folder.mkdir(parents=True, exist_ok=True)
    written = build_charts(benches)
    for name, svg in written.items():
        (folder / name).write_text(svg, encoding="utf-8")
    return list(written)


def _latency(found: Mapping[str, Any]) -> str:
    keys = found["keys"]
    shown = {
        "Backline, p50": "p50_ms", "Backline, p99": "p99_ms", "Celery, p50": "celery_p50_ms", "Celery, p99": "celery_p99_ms",
    }  # fmt: skip
    bars = [Bar(label, keys[key], _bar_color(label.lower())) for label, key in shown.items() if key in keys]
    return bar_chart("Latency: from INSERT to accepted by the SMTP server, warm, 20 a second", "ms", bars)


def _throughput(found: Mapping[str, Any]) -> str:
    return _rates("Throughput: distinct templated HTML emails to one SMTP sink", "a second", found["per_second"])


def _channels(found: Mapping[str, Any]) -> str:
    bars: list[Bar] = []
    for name, rates in found["per_second"].items():
        bare = name.startswith("bare_")
        label = "bare client" if bare else name
        bars.append(Bar(label, median(rates), LIGHT if bare else OURS, starts_group=not bare))
    return bar_chart("Channels: messages over HTTP to one server, and a bare client", "a second", bars)


def _enqueue(found: Mapping[str, Any]) -> str:
    return _rates("Enqueue: one producer, set-based where possible", "messages a second", found["per_second"])


def _rates(title: str, unit: str, rates: Mapping[str, Sequence[float]]) -> str:
    bars = [Bar(DISPLAY_NAMES.get(name, name), median(found), _bar_color(name)) for name, found in rates.items()]
    return bar_chart(title, unit, sorted(bars, key=lambda bar: -bar.value))


def _growth(found: Mapping[str, Any]) -> str:
    bars: list[Bar] = []
    for name, rate in found["rates"].items():
        bars += [
            Bar(name, rate, OURS),
            Bar("under a snapshot", found["snapshot_rates"][name], LIGHT, starts_group=False),
        ]
    return bar_chart("Growth: claim and complete, batches of 500, one process", "messages a second", bars)


def _parse(found: Mapping[str, Any]) -> str:
    worst = sorted(found["each_ms"].items(), key=lambda item: -item[1])[:20]
    return bar_chart("Parse: the heaviest DAG files", "ms", [Bar(Path(name).stem, ms) for name, ms in worst], limit=150)


def _idle(found: Mapping[str, Any], column: int, title: str, unit: str) -> str:
    sides = {side: _services(rounds, column) for side, rounds in found["rounds"].items()}
    names: Iterable[str] = sorted(
        {name for side in sides.values() for name in side}, key=lambda n: -sides["backline"].get(n, 0)
    )
    bars: list[Bar] = []
    for name in names:
        bars.append(Bar(name, sides["backline"].get(name, 0.0), OURS))
        if "catalog" in sides:
            bars.append(Bar("whole catalogue", sides["catalog"].get(name, 0.0), DARK, starts_group=False))
        if name in sides["bare"]:
            bars.append(Bar("bare Airflow", sides["bare"][name], LIGHT, starts_group=False))
    return bar_chart(title, unit, bars)


def _services(rounds: Sequence[Mapping[str, Any]], column: int) -> dict[str, float]:
    names = rounds[0]["services"]
    return {name: median(each["services"].get(name, (0.0, 0.0))[column] for each in rounds) for name in names}


def _bar_color(name: str) -> str:
    return OURS if name.startswith("backline") else DARK


def _format_number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    results = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    print("\n".join(write_charts(results["benches"], Path(sys.argv[2]))))
