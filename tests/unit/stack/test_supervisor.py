"""supervisord's configuration: parsable for any path, free of secrets, unlimited restarts."""

from __future__ import annotations

import shlex
from configparser import RawConfigParser
from dataclasses import astuple
from pathlib import Path

import pytest

from backline.settings import ROOT
from stack.paths import Paths, ensure_private_folder
from stack.postgres import Cluster, runtime_folder
from stack.secrets import Secrets
from stack.supervisor import SERVICES, render_config


def _read_config(home: Path, secrets: Secrets) -> RawConfigParser:
    paths = Paths(ROOT, home, 9100)
    parser = RawConfigParser()
    parser.read_string(render_config(paths, Cluster(paths, secrets)))
    return parser


def test_every_service_is_restarted(tmp_path: Path) -> None:
    parser = _read_config(tmp_path, Secrets())
    for name in SERVICES:
        program = parser[f"program:{name}"]
        assert program["autorestart"] == "true"
        assert int(program["startretries"]) > 100_000
        assert program["killasgroup"] == "true"


def test_no_secret_in_the_file(tmp_path: Path) -> None:
    secrets = Secrets()
    paths = Paths(ROOT, tmp_path, 9100)
    text = render_config(paths, Cluster(paths, secrets))
    assert not [value for value in astuple(secrets)[1:] if value in text]


def test_a_home_with_spaces_and_percent_signs(tmp_path: Path) -> None:
    home = tmp_path / "100 % mine"
    command = _read_config(home, Secrets())["program:mail"]["command"].replace("%%", "%")
    assert str(home / "mail") in shlex.split(command)


def test_postgres_gets_none_of_the_environment(tmp_path: Path) -> None:
    command = shlex.split(_read_config(tmp_path, Secrets())["program:postgres"]["command"])
    assert command[:2] == ["/usr/bin/env", "-i"]
    assert "listen_addresses=" in command


def test_socket_paths_are_short_and_distinct(tmp_path: Path) -> None:
    secrets = Secrets()
    deep = tmp_path / ("deep" * 40)
    folders = {runtime_folder(Paths(ROOT, home, 9100), secrets) for home in (deep, tmp_path)}
    assert len(folders) == 2
    assert all(len(f"{folder}-pg/.s.PGSQL.5432") < 107 for folder in folders)


def test_another_users_runtime_folder_is_rejected(tmp_path: Path) -> None:
    folder = tmp_path / "taken"
    folder.mkdir(mode=0o755)
    folder.chmod(0o755)
    with pytest.raises(Exception, match="not a private folder"):
        ensure_private_folder(folder, folder.stat().st_uid, folder.stat().st_gid)
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    with pytest.raises(Exception, match="not a private folder"):
        ensure_private_folder(link, folder.stat().st_uid, folder.stat().st_gid)
