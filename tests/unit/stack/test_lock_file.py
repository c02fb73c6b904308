"""The lock files are complete and hashed and name no index or folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from backline.settings import ROOT
from testkit.commands import LOCK_FILES, lock_problems


@pytest.mark.parametrize("name", LOCK_FILES)
def test_each_lock_file_is_consistent(name: str) -> None:
    assert lock_problems(ROOT / f"{name}.in", ROOT / f"{name}.txt") == []


@pytest.mark.parametrize("name", LOCK_FILES)
def test_each_lock_file_names_no_index_or_folder(name: str) -> None:
    text = (ROOT / f"{name}.txt").read_text()
    assert not [word for word in ("://", "--index", "--find-links", " @ ") if word in text]


def test_missing_changed_and_unhashed_requirements_are_named(tmp_path: Path) -> None:
    wanted, locked = tmp_path / "in", tmp_path / "txt"
    wanted.write_text("# comment\nAlpha_One[extra]==2.0  # why\nbeta\ngamma\ndelta==4.1.*\nepsilon==5.2.*\n")
    locked.write_text(
        "alpha-one==1.0 \\\n    --hash=sha256:aa\n    # via -r in\n"
        "gamma==3.0 ; python_version < '3.12'\n    # via -r in\n"
        "delta==4.1.7 \\\n    --hash=sha256:aa\nepsilon==5.1.9 \\\n    --hash=sha256:aa\n"
    )
    assert lock_problems(wanted, locked) == [
        "gamma has no hash",
        "Alpha_One is locked at 1.0, not 2.0",
        "beta is not locked",
        "epsilon is locked at 5.1.9, not 5.2.*",
    ]
