"""Writes docs/performance.md and its charts from a results file: `python -m bench.performance_page [RESULTS.json]`.

Results of some benches replace only those; the others are kept (docs/performance.json). The text about what limits each
figure is in bench/bounds.toml.
"""

from __future__ import annotations

import json
import operator
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backline.errors import Misconfigured
from backline.settings import ROOT
from bench import charts

PAGE_FILE = ROOT / "docs" / "performance.md"
RESULTS_FILE = ROOT / "docs" / "performance.json"
CHARTS_FOLDER = ROOT / "docs" / "img" / "performance"
BOUNDS_FILE = ROOT / "bench" / "bounds.toml"
TIMES_SIGN = " \N{MULTIPLICATION SIGN}"
_COMPARISONS = {"≤": operator.le, "≥": operator.ge}


@dataclass(frozen=True, slots=True)
class Target:
    """A target for one figure: a key of a bench's last line, compared with a number or another key."""

    bench: str
    key: str
    description: str
    comparison: str
    limit: float | str
    unit: str = ""

    def as_text(self) -> str:
        """The target as text."""
        return f"{self.comparison} {self.limit if isinstance(self.limit, str) else f'{self.limit:g}'}{self.unit}"

    def is_reached(self, keys: Mapping[str, float]) -> bool:
        """Whether the figures reach it."""
        limit = keys[self.limit] if isinstance(self.limit, str) else self.limit
        return bool(_COMPARISONS[self.comparison](keys[self.key], limit))


TARGETS = (
    Target("latency", "p50_ms", "INSERT to SMTP accepted, warm lane, 20 a second", "≤", 15, " ms"),
    Target("latency", "p50_ms", "the same, compared with Celery + Redis", "≤", "celery_p50_ms"),
    Target("latency", "cold_p99_ms", "INSERT to SMTP accepted, no dispatcher running", "≤", 3000, " ms"),
    Target("throughput", "ratio", "emails a second ÷ Celery as the five systems use it", "≥", 20, TIMES_SIGN),
    Target("throughput", "ratio_best", "÷ optimized Celery (persistent connection, fast builder)", "≥", 8, TIMES_SIGN),
    Target(
        "throughput",
        "ratio_ceiling",
        "÷ a C client with persistent connections (`smtp-source -d`)",
        "≥",
        0.33,
        TIMES_SIGN,
    ),
    Target("throughput", "ratio_procrastinate", "÷ optimized procrastinate", "≥", 8, TIMES_SIGN),
    Target("throughput", "ratio_pgqueuer", "÷ optimized pgqueuer", "≥", 3, TIMES_SIGN),
    Target("priority", "p99_ms", "urgent email while 50,000 bulk ones drain", "≤", 1000, " ms"),
    Target("enqueue", "ratio_sql", "messages enqueued by SQL, set-based ÷ Celery `.delay`", "≥", 40, TIMES_SIGN),
    Target("enqueue", "ratio_commit", "16 producers, order + message ÷ order + plain row", "≥", 0.7, TIMES_SIGN),
    Target("growth", "drop_pct", "largest drop of claim + complete with backlog, schedule and history", "≤", 20, " %"),
    Target("growth", "snapshot_drop_pct", "the same while a REPEATABLE READ snapshot is held", "≤", 50, " %"),
    Target("parse", "total_s", "all DAG files and plugins, beyond Airflow's own imports", "≤", 3, " s"),
    Target("parse", "worst_ms", "the slowest DAG file, as its task imports it", "≤", 150, " ms"),
    Target(
        "libraries",
        "ratio_css",
        "css_inline on each email ÷ tags inlined when a template is loaded",
        "≥",
        2,
        TIMES_SIGN,
    ),
    Target("libraries", "ratio_smtp", "aiosmtplib ÷ our SMTP session, as many connections", "≥", 1.5, TIMES_SIGN),
    Target("idle", "ratio_cpu", "the whole idle stack, CPU ÷ bare Airflow", "≤", 1.4, TIMES_SIGN),
    Target("idle", "ratio_cpu_catalog", "the same with every job of the catalogue", "≤", 1.5, TIMES_SIGN),
    Target("idle", "ratio_mem", "the whole idle stack, memory ÷ bare Airflow", "≤", 1.5, TIMES_SIGN),
)
TITLES = {
    "latency": "Latency",
    "throughput": "Throughput",
    "channels": "Channels",
    "priority": "Priority",
    "enqueue": "Enqueue",
    "growth": "Growth",
    "parse": "Parse",
    "libraries": "Libraries",
    "idle": "Idle",
}
CHART_NAMES = {"enqueue": ("enqueue", "commits"), "idle": ("idle-cpu", "idle-memory"), "libraries": ()}


def render_page(results: Mapping[str, Any], bounds: Mapping[str, str]) -> str:
    """Render the page as Markdown."""
    benches: Mapping[str, Mapping[str, Any]] = results["benches"]
    machine = results["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in results["versions"].items())
    measured = (
        f"Measured {_format_time(results['measured_at'])} on commit `{results['commit']}`: {machine['cores']} cores"
        f" ({machine['cpu']}), {machine['memory_mib'] / 1024:.0f} GiB, {machine['system']}, Python {machine['python']};"
        f" {versions}. Load average at the end: {machine['load_average'][0]}."
    )
    parts = [_HEAD, measured, _render_targets(benches, bounds), _RERUN]
    parts += [_render_section(name, benches[name], bounds) for name in TITLES if name in benches]
    if "growth" in benches:
        parts.append(_render_plans(benches["growth"]["plans"]))
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _render_targets(benches: Mapping[str, Mapping[str, Any]], bounds: Mapping[str, str]) -> str:
    lines = ["| bench | figure | target | measured | reached | limited by |", "|---|---|---|---|---|---|"]
    for target in TARGETS:
        if target.bench not in benches:
            continue
        keys = benches[target.bench]["keys"]
        if target.key not in keys:
            raise Misconfigured(f"the results have no {target.key} of bench {target.bench}; run it again")
        measured = f"{_format_number(keys[target.key])}{target.unit}"
        if isinstance(target.limit, str):
            measured += f" compared with {_format_number(keys[target.limit])}"
        reached = "yes" if target.is_reached(keys) else "**no**"
        bound = bounds.get(f"{target.bench}.{target.key}", "")
        lines.append(
            f"| {target.bench} | {target.description} | {target.as_text()} | {measured} | {reached} | {bound} |"
        )
    return "\n".join(lines)


def _render_section(name: str, found: Mapping[str, Any], bounds: Mapping[str, str]) -> str:
    line = " ".join(f"{key}={_format_number(value, separator='')}" for key, value in found["keys"].items())
    pictures = [
        f"![{TITLES[name]}: {picture}](img/performance/{picture}.svg)"
        for picture in CHART_NAMES.get(name, (name,))
        if f"{picture}.svg" in charts.build_charts({name: found})
    ]
    parts = [f"## {TITLES[name]}", f"`bench {name}: {line}`", *pictures, bounds.get(name, "").strip()]
    if "commit" in found:
        parts.append(f"Measured separately, {_format_time(found['measured_at'])} on commit `{found['commit']}`.")
    return "\n\n".join(parts)


def _render_plans(plans: Mapping[str, Mapping[str, str]]) -> str:
    parts = [_PLANS_HEAD]
    for case, statements in plans.items():
        for name, plan in statements.items():
            parts.append(f"<details><summary><code>{name}</code>: {case}</summary>\n\n```\n{plan}\n```\n\n</details>")
    return "\n\n".join(parts)


def _format_time(text: str) -> str:
    return f"{text[:16].replace('T', ' ')} UTC"


def _format_number(value: float, separator: str = ",") -> str:
    text = f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return text.replace(",", separator)


def merge_results(kept: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """Replace the kept results of some benches by new ones; each keeps its time and commit."""
    if set(new["benches"]) >= set(kept["benches"]):
        return dict(new)
    when = {key: new[key] for key in ("measured_at", "commit")}
    return {
        **kept,
        "benches": {**kept["benches"], **{name: {**found, **when} for name, found in new["benches"].items()}},
    }


def main(arguments: list[str]) -> None:
    """Write the page, its charts and the results file."""
    results = json.loads(RESULTS_FILE.read_text(encoding="utf-8"))
    if arguments:
        new = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
        if new["short"]:
            raise Misconfigured(
                "these are results of the short form, which does not measure speed; run ./backline bench --json FILE"
            )
        results = merge_results(results, new)
        RESULTS_FILE.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    PAGE_FILE.write_text(
        render_page(results, tomllib.loads(BOUNDS_FILE.read_text(encoding="utf-8"))["bounds"]), encoding="utf-8"
    )
    for name in charts.write_charts(results["benches"], CHARTS_FOLDER):
        print(CHARTS_FOLDER / name)
    print(PAGE_FILE)


_HEAD = """
# Performance

For those who choose or size Backline: its speed on one small machine, compared with Celery, procrastinate, pgqueuer
and bare Airflow. `./backline bench` runs all sides in turn on the same machine and takes medians. This page is generated
by `./backline generate`; the texts are in `bench/bounds.toml`.
"""
_RERUN = """
## Measure it yourself

```sh
./backline bench                        # all benches, about half an hour; the last line of each: bench NAME: key=value ...
./backline bench growth                 # one bench
./backline bench --json results.json    # with all measurements
./backline bench --short                # small sizes: tests the bench, does not measure speed
./backline generate --results results.json  # this page and its charts
```

A bench starts its own copy of the stack under `.backline/bench`, on ports 50 above yours, and removes it at the end. The
peers are installed in a venv there. Run nothing else meanwhile.
"""
_PLANS_HEAD = """
## Query plans

The engine's statements as the growth bench ran them (`EXPLAIN (ANALYZE, BUFFERS)`, batches of 500, rolled back).
"""

if __name__ == "__main__":
    main(sys.argv[1:])
