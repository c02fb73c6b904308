"""The performance page shows the results."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree as ET

import pytest

from backline.errors import Misconfigured
from bench import charts, performance_page

RESULTS: dict[str, Any] = {
    "measured_at": "2026-01-02T03:04:05+00:00",
    "commit": "abc1234",
    "short": False,
    "machine": {
        "cores": 2, "cpu": "A CPU", "memory_mib": 8192, "system": "Linux", "python": "3.11.9", "load_average": [1.2, 1, 1],
    },
    "versions": {"celery": "5.7.0"},
    "benches": {
        "parse": {
            "keys": {"total_s": 1.5, "worst_ms": 200.0},
            "each_ms": {"dags/a.py": 200.0, "dags/b.py": 10.0},
        },
        "latency": {"keys": {"p50_ms": 6.0, "celery_p50_ms": 5.0, "p99_ms": 9.0, "cold_p99_ms": 1234.0}},
    },
}  # fmt: skip


def table_rows(text: str) -> dict[tuple[str, str], list[str]]:
    lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")
    ]
    return {(cells[0], cells[2]): cells for cells in lines}


def test_each_figure_is_compared_with_its_target() -> None:
    found = table_rows(performance_page.render_page(RESULTS, {"parse.worst_ms": "one heavy import"}))
    assert found["parse", "≤ 3 s"][3:5] == ["1.5 s", "yes"]
    assert found["parse", "≤ 150 ms"][3:] == ["200 ms", "**no**", "one heavy import"]
    assert found["latency", "≤ 15 ms"][4] == "yes"
    assert found["latency", "≤ celery_p50_ms"][3:5] == ["6 compared with 5", "**no**"]
    assert found["latency", "≤ 3000 ms"][3:5] == ["1,234 ms", "yes"]
    assert not any(bench == "growth" for bench, _ in found)


def test_results_without_a_key_are_rejected() -> None:
    benches = {"parse": {"keys": {"total_s": 1.5}, "each_ms": {}}}
    with pytest.raises(Misconfigured, match="no worst_ms of bench parse"):
        performance_page.render_page({**RESULTS, "benches": benches}, {})


def test_new_results_of_one_bench_keep_the_others_and_show_their_date() -> None:
    later = {"measured_at": "2026-02-03T04:05:06+00:00", "commit": "def5678"}
    parse = {"keys": {"total_s": 1.0, "worst_ms": 90.0}, "each_ms": {"dags/a.py": 90.0}}
    text = performance_page.render_page(
        performance_page.merge_results(RESULTS, {**RESULTS, **later, "benches": {"parse": parse}}), {}
    )
    assert table_rows(text)["parse", "≤ 150 ms"][3:5] == ["90 ms", "yes"]
    assert table_rows(text)["latency", "≤ 15 ms"][3:5] == ["6 ms", "yes"]
    assert text.count("Measured separately, 2026-02-03 04:05 UTC on commit `def5678`.") == 1
    assert "on commit `abc1234`" in text


def test_results_of_all_benches_replace_the_page() -> None:
    later = {**RESULTS, "commit": "def5678"}
    assert performance_page.merge_results(RESULTS, later) == later


def test_channels_are_shown_next_to_their_bare_clients() -> None:
    found = {"keys": {}, "per_second": {"sms": [900.0, 1000.0, 1100.0], "bare_sms": [2000.0]}}
    words = [
        text.text
        for text in ET.fromstring(charts.build_charts({"channels": found})["channels.svg"]).iter()
        if text.text
    ]
    assert words[words.index("sms") + 1 :] == ["1,000", "bare client", "2,000"]


def test_plans_are_shown_by_case_and_statement() -> None:
    growth = {
        "keys": {"drop_pct": 3.0, "snapshot_drop_pct": 4.0},
        "rates": {"few": 100}, "snapshot_rates": {"few": 90}, "snapshot_last_rates": {"few": 80},
        "plans": {"few": {"message_claim": "Index Scan using message_claim", "message_promote": "Tid Scan"}},
    }  # fmt: skip
    text = performance_page.render_page({**RESULTS, "benches": {"growth": growth}}, {})
    assert "<code>message_claim</code>: few</summary>\n\n```\nIndex Scan using message_claim\n```" in text
    assert "<code>message_promote</code>: few</summary>\n\n```\nTid Scan\n```" in text


def test_charts_are_well_formed_and_show_values_and_units() -> None:
    made = charts.build_charts(RESULTS["benches"])
    assert set(made) == {"parse.svg", "latency.svg"}
    words = {text.text for text in ET.fromstring(made["parse.svg"]).iter("{http://www.w3.org/2000/svg}text")}
    assert {"a", "200", "b", "10", "ms", "limit 150"} <= words


def test_bar_lengths_are_proportional() -> None:
    drawn = ET.fromstring(charts.bar_chart("A & B", "ms", [charts.Bar("<a>", 10.0), charts.Bar("b", 5.0)]))
    _, first, second = drawn.iter("{http://www.w3.org/2000/svg}rect")
    assert float(first.get("width", "")) == pytest.approx(2 * float(second.get("width", "")), rel=0.01)
