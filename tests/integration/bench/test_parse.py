"""The parse bench in small: a DAG file is imported together with others and alone, and a broken one is an error."""

from __future__ import annotations

from pathlib import Path

import pytest

from backline.errors import UnknownFailure
from backline.settings import ROOT
from bench import parse


def ignore_report(_: str) -> None:
    pass


def test_a_dag_file_is_measured_together_and_alone() -> None:
    files = parse.dag_files()[:1]
    found = parse.measure(files, 1, ignore_report, imports=False)
    assert set(found.raw["each_ms"]) == {str(file.relative_to(ROOT)) for file in files}
    assert list(found.metrics)[:2] == ["total_s", "worst_ms"]
    assert 0 < found.metrics["worst_ms"] <= 1000 * 10 * found.metrics["total_s"]


def test_all_dag_files_are_found() -> None:
    assert ROOT / "dags" / "messages" / "dispatch.py" in parse.dag_files()


def test_a_file_without_a_dag_is_an_error(tmp_path: Path) -> None:
    empty = tmp_path / "empty.py"
    empty.write_text("", encoding="utf-8")
    with pytest.raises(UnknownFailure, match=r"empty\.py defines no DAG"):
        parse.measure([empty], 1, ignore_report)


def test_a_broken_file_is_an_error(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("import no_such_module", encoding="utf-8")
    with pytest.raises(UnknownFailure, match="no_such_module"):
        parse.measure([broken], 1, ignore_report)
