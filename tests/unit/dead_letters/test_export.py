"""An export can be read back."""

from __future__ import annotations

import csv
import io
import json
from datetime import UTC, datetime

import pytest

from backline.dead_letters.export import COLUMNS, export
from backline.errors import InvalidInput

AT = datetime(2026, 3, 1, tzinfo=UTC)
ROW = {**dict.fromkeys(COLUMNS), "id": 7, "cause": 'a "b",\nc', "conf": {"days": 1}, "failed_at": AT}


def test_json_lines() -> None:
    [line] = export([ROW], "jsonl")
    assert json.loads(line) == {**ROW, "failed_at": AT.isoformat()}


def test_csv() -> None:
    [row] = csv.DictReader(io.StringIO("".join(export([ROW], "csv")), newline=""))
    assert (row["id"], row["cause"], row["conf"], row["task_id"]) == ("7", 'a "b",\nc', '{"days": 1}', "")


@pytest.mark.parametrize("formula", ["=1+1", "+1", "-1", "@x"])
def test_no_cell_is_a_formula(formula: str) -> None:
    [row] = csv.DictReader(io.StringIO("".join(export([{**ROW, "cause": formula}], "csv"))))
    assert row["cause"] == f"'{formula}"


def test_another_format_is_refused() -> None:
    with pytest.raises(InvalidInput, match="format: 'xml' is not known; use one of: jsonl, csv"):
        export([], "xml")
