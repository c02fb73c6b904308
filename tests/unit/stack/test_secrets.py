"""Secrets: generated once, private, all different, never shown."""

from __future__ import annotations

import json
import stat
from dataclasses import astuple
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from backline.errors import Misconfigured
from stack.secrets import Secrets, load_or_create, write_airflow_passwords


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_generated_once_and_private(tmp_path: Path) -> None:
    path = tmp_path / "secrets.env"
    first = load_or_create(path)
    assert _mode(path) == 0o600
    assert load_or_create(path) == first
    assert len(set(astuple(first))) == len(astuple(first))
    assert [item.name for item in tmp_path.iterdir()] == ["secrets.env"]


def test_the_mode_of_a_readable_file_is_corrected(tmp_path: Path) -> None:
    path = tmp_path / "secrets.env"
    load_or_create(path)
    path.chmod(0o644)
    load_or_create(path)
    assert _mode(path) == 0o600


def test_a_missing_secret_is_added_and_the_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "secrets.env"
    first = load_or_create(path)
    path.write_text("".join(line for line in path.read_text().splitlines(keepends=True) if "OP_PASSWORD" not in line))
    second = load_or_create(path)
    assert second.op_password != first.op_password
    assert second.superuser_password == first.superuser_password
    assert load_or_create(path) == second


def test_an_invalid_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "secrets.env"
    load_or_create(path)
    path.write_text(path.read_text() + "WHAT=ever\n")
    with pytest.raises(Misconfigured, match=r"secrets\.env: line 17"):
        load_or_create(path)


def test_fernet_keys_are_valid() -> None:
    made = Secrets()
    for key in (made.airflow_fernet_key, made.backline_fernet_keys):
        assert Fernet(key).decrypt(Fernet(key).encrypt(b"x")) == b"x"


def test_the_repr_has_no_secret() -> None:
    made = Secrets()
    shown = repr(made)
    assert not [value for value in astuple(made)[1:] if value in shown]


def test_passwords_for_airflow(tmp_path: Path) -> None:
    made = Secrets()
    path = tmp_path / "passwords.json"
    write_airflow_passwords(path, made)
    assert json.loads(path.read_text()) == {
        "admin": made.admin_password,
        "op": made.op_password,
        "viewer": made.viewer_password,
    }
    assert _mode(path) == 0o600
