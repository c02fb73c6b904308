from __future__ import annotations

import os
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from backline.channels.email.settings import EmailSettings
from backline.channels.webhook.settings import WebhookSettings
from backline.errors import FailureClass, Misconfigured
from backline.rendering.settings import TemplateSettings
from backline.settings import ROOT, JobDefaults, LaneSettings, RetrySettings, Settings, config_file, load
from testkit.settings_file import all_sections

SHIPPED = ROOT / "include" / "config" / "backline.toml"
CORE_SECTIONS = ("database", "outbox", "lane_trigger", "direct_pools", "alerts", "jobs", "job_pools")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("BACKLINE__") or name == "BACKLINE_CONFIG":
            monkeypatch.delenv(name)


def spoiled(tmp_path: Path, old: str, new: str) -> Path:
    text = SHIPPED.read_text()
    assert old in text
    path = tmp_path / "backline.toml"
    path.write_text(text.replace(old, new, 1))
    return path


def parsed() -> dict[str, Any]:
    return tomllib.loads(SHIPPED.read_text())


@pytest.mark.parametrize("name", CORE_SECTIONS)
def test_every_shipped_value_of_the_core_is_the_codes_default(name: str) -> None:
    assert getattr(load(SHIPPED), name) == getattr(Settings(lanes={}), name)


@pytest.mark.parametrize("name", all_sections())
def test_every_shipped_value_is_the_codes_default(name: str) -> None:
    assert load(SHIPPED).job_section(name, domain=name) == all_sections()[name]()


def test_every_shipped_retry_policy_is_the_codes_default() -> None:
    assert load(SHIPPED).retry == Settings(lanes={}).retry


def test_every_setting_is_in_the_shipped_file() -> None:
    shipped = parsed()
    assert set(shipped) == {*Settings.model_fields, *all_sections()}
    for name, model in all_sections().items():
        assert set(shipped[name]) == set(model.model_fields)
    for name in ("database", "outbox", "lane_trigger", "alerts"):
        core = Settings.model_fields[name].annotation
        assert core is not None
        assert set(shipped[name]) == set(core.model_fields)
    assert set(shipped["jobs"]) == set(JobDefaults.model_fields)
    for policy in shipped["retry"].values():
        assert set(policy) == set(RetrySettings.model_fields)
    for lane in shipped["lanes"].values():
        assert set(lane) == set(LaneSettings.model_fields)


def test_every_setting_is_commented() -> None:
    """Where it stands first; settings of one meaning stand together under one comment."""
    seen: set[str] = set()
    bare = []
    commented = False
    for line in SHIPPED.read_text().splitlines():
        key = line.partition(" = ")[0]
        if line.startswith("#"):
            commented = True
        elif not line:
            commented = False
        elif " = " in line and not line.startswith((" ", "[")) and key not in seen:
            seen.add(key)
            if not commented:
                bare.append(key)
    assert len(seen) > 30
    assert bare == []


@pytest.mark.parametrize("name", ["timeout", "network", "database", "rate_limited", "resource", "unknown"])
def test_a_policy_that_is_left_out_has_its_default(tmp_path: Path, name: str) -> None:
    text = SHIPPED.read_text()
    start = text.index(f"[retry.{name}]")
    path = tmp_path / "backline.toml"
    path.write_text(text[:start] + text[text.index("\n\n", start) :])
    assert load(path).retry == load(SHIPPED).retry


def test_a_line_that_is_left_out_has_its_default(tmp_path: Path) -> None:
    for line in (
        "connections = 8\n",
        "max_rescues = 5\n",
        "initial_delay_seconds = 300.0\n",
        "initial_delay_seconds = 5.0\n",
    ):
        path = spoiled(tmp_path, line, "")
        loaded = load(path)
        assert (loaded.section(EmailSettings), loaded.outbox, loaded.retry) == (
            load(SHIPPED).section(EmailSettings), load(SHIPPED).outbox, load(SHIPPED).retry,
        ), line  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("connections = 8", "conections = 8", "email.conections"),
        ("[lane_trigger]", "[dorbell]", "dorbell"),
        ("max_rescues = 5", "max_rescue = 5", "outbox.max_rescue"),
        ("idle_timeout_seconds = 300.0", "idle = 300.0", "lanes.email.urgent.idle"),
        ("multiplier = 2.0", "multiplyer = 2.0", "retry.timeout.multiplyer"),
        ("[retry.timeout]", "[retry.time_out]", "retry.time_out"),
    ],
)
def test_an_unknown_key_is_named_with_its_file(tmp_path: Path, old: str, new: str, key: str) -> None:
    path = spoiled(tmp_path, old, new)
    with pytest.raises(Misconfigured) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert key in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ("connections = 8", 'connections = "many"', "email.connections"),
        ("connections = 8", "connections = 0", "email.connections"),
        ("max_rescues = 5", "max_rescues = 1.5", "outbox.max_rescues"),
        ('channel = "email"', 'channel = "pigeon"', "lanes.email.urgent.channel"),
        (
            "domain_rates_per_minute = {}",
            'domain_rates_per_minute = { "example.com" = 0 }',
            "domain_rates_per_minute.example.com",
        ),
        ("email_direct = 8", "email_direct = 0", "direct_pools.email_direct"),
        ("jitter = 0.2", "jitter = 1.0", "retry.timeout.jitter"),
    ],
)
def test_a_wrong_value_is_named_with_its_file(tmp_path: Path, old: str, new: str, key: str) -> None:
    path = spoiled(tmp_path, old, new)
    with pytest.raises(Misconfigured) as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert f"{key}: " in str(caught.value)


def test_a_policy_for_a_permanent_class_is_refused(tmp_path: Path) -> None:
    path = spoiled(tmp_path, "[retry.timeout]", "[retry.rejected]\ninitial_delay_seconds = 1.0\n\n[retry.timeout]")
    with pytest.raises(Misconfigured, match=r"retry\.rejected: this class is permanent"):
        load(path)


def test_lanes_must_be_there(tmp_path: Path) -> None:
    path = tmp_path / "backline.toml"
    path.write_text("")
    with pytest.raises(Misconfigured, match="lanes"):
        load(path)


def test_bad_toml_names_the_file_and_the_line(tmp_path: Path) -> None:
    path = spoiled(tmp_path, "connections = 8", "connections = = 8")
    with pytest.raises(Misconfigured, match=r"not valid TOML.*line") as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_file_that_is_not_text_is_named(tmp_path: Path) -> None:
    path = tmp_path / "backline.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(Misconfigured, match="not valid TOML") as caught:
        load(path)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_missing_file_is_named_with_the_fix(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=r"none\.toml: no such file; set BACKLINE_CONFIG"):
        load(tmp_path / "none.toml")


def test_backline_config_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert config_file() == SHIPPED
    monkeypatch.setenv("BACKLINE_CONFIG", str(tmp_path / "mine.toml"))
    assert config_file() == tmp_path / "mine.toml"


def test_the_environment_beats_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKLINE__EMAIL__FROM_ADDRESS", "Shop <hello@shop.example>")
    monkeypatch.setenv("BACKLINE__RETRY__NETWORK__INITIAL_DELAY_SECONDS", "7")
    loaded = load(SHIPPED)
    assert loaded.section(EmailSettings).from_address == "Shop <hello@shop.example>"
    assert loaded.section(EmailSettings).connections == 8
    assert loaded.retry[FailureClass.NETWORK] == RetrySettings(initial_delay_seconds=7)
    assert loaded.retry[FailureClass.RESOURCE].initial_delay_seconds == 300


def test_the_environment_gives_lists_and_whole_sections_as_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKLINE__ALERTS__RECIPIENTS", '["ann@shop.example", "bob@shop.example"]')
    monkeypatch.setenv("BACKLINE__EMAIL", '{"connections": 3, "timeout_seconds": 9}')
    monkeypatch.setenv("BACKLINE__EMAIL__CONNECTIONS", "4")
    monkeypatch.setenv("backline__lanes__email.bulk__batch_size", "77")
    loaded = load(SHIPPED)
    assert loaded.alerts.recipients == ("ann@shop.example", "bob@shop.example")
    assert (
        loaded.section(EmailSettings).connections,
        loaded.section(EmailSettings).timeout_seconds,
        loaded.section(EmailSettings).messages_per_connection,
    ) == (4, 9, 2)
    assert (loaded.lane("email.bulk").batch_size, loaded.lane("email.bulk").priority) == (77, 2)


def test_text_that_only_looks_like_json_stays_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKLINE__TEMPLATES__PRODUCT_NAME", "[Shop]")
    assert load(SHIPPED).section(TemplateSettings).product_name == "[Shop]"


@pytest.mark.parametrize(
    ("name", "value", "key"),
    [
        ("BACKLINE__EMAIL__CONNECTIONS", "many", "email.connections"),
        ("BACKLINE__EMAIL__CONECTIONS", "8", "email.conections"),
        ("BACKLINE__EMAIL", "8 of them", "email"),
        ("BACKLINE__DORBELL__INTERVAL_SECONDS", "1", "dorbell"),
    ],
)
def test_a_wrong_environment_variable_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, key: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(Misconfigured, match=rf"(?i){key}") as caught:
        load(SHIPPED)
    assert f"environment: {name}" in str(caught.value)


def test_a_wrong_file_is_named_although_the_environment_has_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BACKLINE__EMAIL__CONNECTIONS", "4")
    path = spoiled(tmp_path, "max_rescues = 5", "max_rescues = 1.5")
    with pytest.raises(Misconfigured, match=re.escape(f"{path}: outbox.max_rescues")):
        load(path)


@pytest.mark.parametrize(
    "name", ["BACKLINE__RETRY__UNKNOWN__INITIAL_DELAY_SECONDS", "BACKLINE__JOBS__SOFT_LIMIT_SECONDS"]
)
@pytest.mark.parametrize("value", ["inf", "nan"])
def test_a_number_must_be_finite(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(Misconfigured, match=f"environment: {name}.*finite"):
        load(SHIPPED)


def test_a_folder_in_place_of_the_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match=f"{tmp_path}: cannot be read"):
        load(tmp_path)


def test_an_unknown_lane_lists_the_known_ones() -> None:
    loaded = load(SHIPPED)
    assert loaded.lane("email.bulk").priority == 2
    with pytest.raises(Misconfigured, match=r'"email\.slow".*email\.bulk, email\.normal, email\.urgent'):
        loaded.lane("email.slow")


def test_lanes_of_priority_stand_in_order() -> None:
    lanes = load(SHIPPED).lanes
    assert lanes["email.urgent"].priority > lanes["email.normal"].priority > lanes["email.bulk"].priority


def test_a_job_has_the_defaults_then_its_own_then_the_operators(tmp_path: Path) -> None:
    path = tmp_path / "backline.toml"
    path.write_text(
        SHIPPED.read_text().replace("retries = 3", "retries = 2")
        + '\n[jobs."count_orders"]\nschedule = "0 5 * * *"\npool = "orders"\n'
    )
    job = load(path).job("count_orders", {"schedule": "@daily", "priority": 8, "pool": "reports"})
    assert (job.retries, job.priority, job.schedule, job.pool) == (2, 8, "0 5 * * *", "orders")
    assert job.effective_hard_limit_seconds == job.soft_limit_seconds + 60
    other = load(path).job("count_users", {"schedule": "@daily"})
    assert (other.schedule, other.pool) == ("@daily", "database")


def test_an_operator_changes_a_job_by_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKLINE__JOBS__COUNT_ORDERS__ENABLED", "false")
    monkeypatch.setenv("BACKLINE__JOBS__RETRIES", "7")
    loaded = load(SHIPPED)
    assert (loaded.job("count_orders", {}).enabled, loaded.job("count_orders", {}).retries) == (False, 7)
    assert loaded.job("count_users", {}).enabled


@pytest.mark.parametrize(
    ("declared", "named"),
    [
        ({"pol": "orders"}, "pol: unknown setting"),
        ({"pool": "swimming"}, "pool: 'swimming' is not in"),
        ({"soft_limit_seconds": 900, "hard_limit_seconds": 600}, "hard_limit_seconds: must be more"),
        ({"priority": 11}, "priority: "),
    ],
)
def test_what_a_job_declares_is_checked(declared: dict[str, Any], named: str) -> None:
    with pytest.raises(Misconfigured, match=r"job 'count_orders'") as caught:
        load(SHIPPED).job("count_orders", declared)
    assert named in str(caught.value)


def test_an_unknown_key_of_a_job_is_named(tmp_path: Path) -> None:
    path = tmp_path / "backline.toml"
    path.write_text(SHIPPED.read_text() + '\n[jobs."count_orders"]\nretrys = 1\n')
    with pytest.raises(Misconfigured, match=r"jobs\.count_orders\.retrys: unknown setting"):
        load(path)


def test_an_address_to_allow_that_cannot_be_read_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKLINE__WEBHOOKS__ALLOWED_ADDRESSES", '["10.0.0.0/8", "localhost"]')
    with pytest.raises(
        Misconfigured, match=r"webhooks\.allowed_addresses: .*'localhost' is not an address.*write \"10\.0"
    ):
        load(SHIPPED)
    monkeypatch.setenv("BACKLINE__WEBHOOKS__ALLOWED_ADDRESSES", '["10.0.0.0/8", "127.0.0.1:8080"]')
    assert load(SHIPPED).section(WebhookSettings).allowed_addresses == ("10.0.0.0/8", "127.0.0.1:8080")


def test_webhooks_are_tried_eight_times_over_a_day() -> None:
    assert load(SHIPPED).section(WebhookSettings).retry_delays_seconds == (5, 300, 1800, 7200, 18000, 36000, 36000)
    assert load(SHIPPED).lane("webhook.normal").max_attempts == 8


def test_the_core_imports_no_domain() -> None:
    core = ("backline.settings", "backline.errors", "backline.validation_errors")
    for path in sorted((ROOT / "plugins" / "backline" / "settings").glob("*.py")):
        imported = re.findall(r"^\s*(?:from|import) (backline[\w.]*)", path.read_text(), re.MULTILINE)
        assert {name for name in imported if not name.startswith(core)} == set(), path
