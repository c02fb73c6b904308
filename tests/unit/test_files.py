"""Atomic writes: the previous file or the complete new one, whatever happens in between."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from backline.errors import Misconfigured, NetworkFailure, ResourceExhausted
from backline.files import atomic_file, atomic_text_file, write_file, write_manifest
from backline.settings import ROOT

# Dies at the given function, called by write_file.
CRASH = """
import os, signal, sys
from pathlib import Path
from backline import files
owner, name = {"fsync": (os, "fsync"), "rename": (Path, "replace")}[sys.argv[2]]
setattr(owner, name, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
files.write_file(Path(sys.argv[1]), b"new" * 100_000)
"""


@pytest.mark.parametrize("step", ["fsync", "rename"])
def test_a_crash_before_the_rename_leaves_the_previous_file(step: str, tmp_path: Path) -> None:
    path = tmp_path / "report.csv"
    write_file(path, b"old")
    died = subprocess.run(
        [sys.executable, "-c", CRASH, str(path), step], check=False, env={"PYTHONPATH": str(ROOT / "plugins")}
    )
    assert died.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"
    assert [found.name for found in tmp_path.glob("*.csv")] == ["report.csv"]  # the temporary file is hidden
    write_file(path, b"new")
    assert path.read_bytes() == b"new"


def test_the_file_is_synced_before_the_rename_and_the_folder_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def record_fsync(descriptor: int) -> None:
        steps.append("folder" if os.path.isdir(f"/proc/self/fd/{descriptor}") else "file")  # noqa: PTH112
        fsync(descriptor)

    def record_replace(path: Path, target: Path) -> Path:
        steps.append("rename")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(Path, "replace", record_replace)
    write_file(tmp_path / "a" / "b.pdf", b"x")
    assert steps == ["file", "rename", "folder"]


def test_an_exception_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "report.csv"

    def interrupted() -> None:
        with atomic_text_file(path) as file:
            file.write("half a li")
            raise NetworkFailure

    with pytest.raises(NetworkFailure):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_text_is_utf_8_with_line_ends_as_given(tmp_path: Path) -> None:
    with atomic_text_file(tmp_path / "report.csv") as file:
        file.write("größer\r\n")
    assert (tmp_path / "report.csv").read_bytes() == "größer\r\n".encode()


@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_the_mode_does_not_depend_on_the_umask(mode: int, tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.csv"
    before = os.umask(0o077)
    try:
        write_file(path, b"x", mode=mode)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == mode
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_manifest_has_the_count_and_the_checksum(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_file(path, b"{}\n{}\n", mode=0o640)
    manifest = write_manifest(path, 2)
    digest = hashlib.sha256(b"{}\n{}\n").hexdigest()
    assert json.loads(manifest.read_text()) == {"file": "rows.jsonl", "count": 2, "sha256": digest}
    assert manifest == tmp_path / "rows.jsonl.json"
    assert manifest.stat().st_mode & 0o777 == 0o640


def test_a_folder_that_is_a_file_is_misconfigured(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(
        Misconfigured, match=r"/file: File exists; make it writable, or set invoices\.folder to a folder"
    ):
        write_file(tmp_path / "file" / "report.csv", b"x", setting="invoices.folder")
    with pytest.raises(Misconfigured, match=r"/file/below: Not a directory; make it writable"):
        write_file(tmp_path / "file" / "below" / "report.csv", b"x")


def test_a_folder_without_permission_is_misconfigured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", refuse)  # root may write anywhere
    with pytest.raises(Misconfigured, match=r"Permission denied; make it writable, or set invoices\.folder"):
        write_file(tmp_path / "report.csv", b"x", setting="invoices.folder")


def test_a_full_disk_is_exhausted(tmp_path: Path) -> None:
    def overfill() -> None:
        with atomic_file(tmp_path / "report.csv") as file, Path("/dev/full").open("wb", buffering=0) as full:
            os.dup2(full.fileno(), file.fileno())
            file.write(b"x")

    with pytest.raises(ResourceExhausted, match=r"report\.csv: No space left"):
        overfill()
    assert list(tmp_path.iterdir()) == []


def test_other_errors_of_the_block_are_not_translated(tmp_path: Path) -> None:
    with pytest.raises(ConnectionResetError), atomic_file(tmp_path / "report.csv"):
        raise ConnectionResetError(errno.ECONNRESET, "reset by peer")
    with pytest.raises(FileNotFoundError), atomic_file(tmp_path / "report.csv"):
        Path("/nowhere/statement.csv").read_bytes()
