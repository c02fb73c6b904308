"""The project's `.env` file: variables already set win, and an invalid line is named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from backline.environment import load_dotenv
from backline.errors import Misconfigured


def test_variables_already_set_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text('# comment\nexport BL_ONE="a b"  # why\nBL_TWO=file\n\nBL_EMPTY=\n')
    for key in ("BL_ONE", "BL_EMPTY"):
        monkeypatch.setenv(key, "to be restored")
        monkeypatch.delenv(key)
    monkeypatch.setenv("BL_TWO", "environment")
    load_dotenv(tmp_path)
    assert (os.environ["BL_ONE"], os.environ["BL_TWO"], os.environ["BL_EMPTY"]) == ("a b", "environment", "")


@pytest.mark.parametrize("line", ["not a setting", "1A=2", 'B="a quote without its end', "\n\nKEY"])
def test_an_invalid_line_is_named(line: str, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(f"A=1\n{line}\n")
    with pytest.raises(Misconfigured, match=rf"\.env: line {2 + line.count(chr(10))} is"):
        load_dotenv(tmp_path)
