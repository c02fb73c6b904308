"""The environment variables: complete, different for each copy, readable by a shell, and safe."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import httpx
import pytest
from google.auth import jwt

from backline.channels.http import HttpGateway
from backline.channels.push.channel import ServiceAccount
from backline.channels.webhook.ssrf_guard import AddressGuard
from backline.errors import Misconfigured
from backline.settings import ROOT, settings
from stack.environment import build_environment, to_shell_exports
from stack.paths import MAX_BASE_PORT, Paths
from stack.postgres import Cluster
from stack.secrets import Secrets


def _build_environment(home: Path, port: int = 9100, secrets: Secrets | None = None) -> dict[str, str]:
    paths = Paths(ROOT, home, port)
    made = secrets or Secrets()
    return build_environment(paths, made, Cluster(paths, made))


def test_a_shell_reads_back_every_value(tmp_path: Path) -> None:
    home = tmp_path / 'it\'s a "home" with $signs'
    variables = _build_environment(home)
    script = to_shell_exports(variables) + "exec env -0"
    done = subprocess.run(
        ["/bin/sh", "-c", script], capture_output=True, text=True, check=True, env={"PATH": os.environ["PATH"]}
    )
    seen = dict(item.partition("=")[::2] for item in done.stdout.split("\0") if item)
    assert {key: seen.get(key) for key in variables} == variables


def test_two_copies_share_no_port_path_or_secret(tmp_path: Path) -> None:
    one, two = _build_environment(tmp_path / "one", 9100), _build_environment(tmp_path / "two", 9200)
    differ = {key for key in one if one[key] != two[key]}
    assert {
        "AIRFLOW_HOME", "AIRFLOW__API__PORT", "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL", "AIRFLOW__API_AUTH__JWT_SECRET", "AIRFLOW__CORE__FERNET_KEY",
        "BACKLINE_DATABASE_URL", "BACKLINE_FERNET_KEYS", "BACKLINE_MAILDIR", "BACKLINE_PASSWORD", "BACKLINE_SMTP_PORT",
    } <= differ  # fmt: skip


def test_links_lead_to_the_copys_own_page_unless_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BACKLINE__LINKS__UNSUBSCRIBE", raising=False)
    settings.cache_clear()
    own = _build_environment(tmp_path, 9100)["BACKLINE__LINKS__UNSUBSCRIBE"]
    assert own == "http://localhost:9100/backline/unsubscribe/{token}"
    given = "https://mail.shop.example/backline/unsubscribe/{token}"
    monkeypatch.setenv("BACKLINE__LINKS__UNSUBSCRIBE", given)
    settings.cache_clear()
    assert _build_environment(tmp_path, 9100)["BACKLINE__LINKS__UNSUBSCRIBE"] == given
    settings.cache_clear()


def test_no_access_without_a_password(tmp_path: Path) -> None:
    variables = _build_environment(tmp_path)
    assert variables["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS"] == "False"
    assert variables["AIRFLOW__API__HOST"] == "127.0.0.1"
    assert len(variables["AIRFLOW__API_AUTH__JWT_SECRET"]) >= 64


def test_the_catcher_is_used_without_tls(tmp_path: Path) -> None:
    smtp = json.loads(_build_environment(tmp_path)["AIRFLOW_CONN_SMTP_DEFAULT"])
    assert smtp["port"] == 9101
    assert smtp["extra"]["disable_ssl"] is True
    assert smtp["extra"]["disable_tls"] is True


@pytest.mark.parametrize("port", ["abc", "0", "80", "-1", "8080.5", str(MAX_BASE_PORT + 1), "٨٠٨٠"])
def test_an_invalid_port_is_rejected_by_name(port: str) -> None:
    with pytest.raises(Misconfigured, match=r"BACKLINE_PORT=.*1024"):
        Paths.from_environment({"BACKLINE_PORT": port})


def test_processes_write_bytecode(tmp_path: Path) -> None:
    assert _build_environment(tmp_path)["PYTHONDONTWRITEBYTECODE"] == ""


def test_sms_and_push_go_to_the_sandbox(tmp_path: Path) -> None:
    variables = _build_environment(tmp_path)
    sms, push = (json.loads(variables[f"AIRFLOW_CONN_{name}_GATEWAY"]) for name in ("SMS", "PUSH"))
    assert (sms["conn_type"], sms["host"]) == ("http", "http://127.0.0.1:9102/sms")
    gateway = HttpGateway.from_connection(
        "push_gateway", host=push["host"], schema=None, port=None, login=None, password=None, extra=push["extra"]
    )
    account = ServiceAccount(gateway)
    assert account.token_url == "http://127.0.0.1:9102/push/token"
    assert jwt.encode(account.credentials.signer, {}).count(b".") == 2


def test_the_sandbox_asks_for_its_own_password(tmp_path: Path) -> None:
    variables = _build_environment(tmp_path)
    url, password = httpx.URL(variables["BACKLINE_MAIL_URL"]), variables["BACKLINE_SANDBOX_PASSWORD"]
    assert (url.username, url.password, url.port) == ("sandbox", password, 9102)
    assert json.loads(variables["AIRFLOW_CONN_STRIPE_API"])["password"] == f"sk_test_{password}"
    assert password not in variables["BACKLINE_WEBHOOK_URL"]


def test_webhooks_reach_only_the_sandbox_on_this_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("REQUIRE_HTTPS", "ALLOWED_ADDRESSES"):
        monkeypatch.delenv(f"BACKLINE__WEBHOOKS__{name}", raising=False)
    variables = _build_environment(tmp_path)
    assert variables["BACKLINE_WEBHOOK_URL"] == "http://127.0.0.1:9102/webhooks/in"
    guard = AddressGuard(json.loads(variables["BACKLINE__WEBHOOKS__ALLOWED_ADDRESSES"]))
    assert [port for port in (9100, 9101, 9102, 5432) if guard.allows("127.0.0.1", port)] == [9102]
    monkeypatch.setenv("BACKLINE__WEBHOOKS__ALLOWED_ADDRESSES", '["10.0.0.0/8"]')
    assert _build_environment(tmp_path)["BACKLINE__WEBHOOKS__ALLOWED_ADDRESSES"] == '["10.0.0.0/8"]'
