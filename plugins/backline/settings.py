"""Settings: `include/config/backline.toml`, overridden by `BACKLINE__SECTION__KEY`, checked once."""

from __future__ import annotations

import os
import tomllib
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, ValidationError, field_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, SettingsError

from backline.errors import FailureClass, Misconfigured

ROOT = Path(__file__).resolve().parents[2]
"""The project's root: the folder with `dags/`, `plugins/` and `include/`."""

ENVIRONMENT_PREFIX = "BACKLINE__"

PERMANENT_CLASSES = frozenset({FailureClass.VALIDATION, FailureClass.AUTHENTICATION, FailureClass.REJECTED})


_OFFICE = "application/vnd.openxmlformats-officedocument"
ATTACHMENT_TYPES = frozenset(
    {f"application/{name}" for name in ("pdf", "zip", "json")}
    | {f"text/{name}" for name in ("plain", "csv", "html", "calendar")}
    | {f"image/{name}" for name in ("png", "jpeg", "gif", "webp")}
    | {f"{_OFFICE}.spreadsheetml.sheet", f"{_OFFICE}.wordprocessingml.document"}
)


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EmailSettings(_Section):
    """How email goes out."""

    connection: str = "smtp_default"
    from_address: str = "Backline <backline@localhost.localdomain>"
    message_id_domain: str = "backline.localdomain"
    connections: int = Field(8, ge=1, le=64)
    timeout_seconds: float = Field(30.0, gt=0, le=300)
    attachment_folder: str = "include/attachments"
    attachment_max_mib: float = Field(10.0, gt=0, le=50)
    attachment_types: frozenset[str] = ATTACHMENT_TYPES


class TemplateSettings(_Section):
    """What every template can use."""

    product_name: str = "Backline"
    product_url: str = "http://localhost:8080"
    support_email: str = "support@localhost.localdomain"
    language: str = "en"


class OutboxSettings(_Section):
    """The engine's bounds and lifetimes."""

    max_unconfirmed: int = Field(64, ge=1, le=10_000)
    max_rescues: int = Field(5, ge=0, le=100)
    history_days: int = Field(30, ge=1)
    heartbeat_timeout_seconds: float = Field(10.0, ge=3)
    dispatcher_lifetime_seconds: float = Field(480.0, ge=10, le=780)


class DoorbellSettings(_Section):
    """How often the doorbell looks, and how long it is silent after a ring."""

    interval_seconds: float = Field(0.25, ge=0.05, le=10)
    silence_seconds: float = Field(5.0, ge=1, le=60)


class HttpSettings(_Section):
    """The HTTP API in Airflow's api-server."""

    max_body_mib: float = Field(32.0, gt=0, le=1024)
    connections: int = Field(4, ge=1, le=64)
    wait_seconds: float = Field(5.0, gt=0, le=60)
    search_seconds: float = Field(5.0, gt=0, le=60)


class RetrySettings(_Section):
    """Delay before try n + 1: `first_seconds * factor^(n - 1)`, capped, ± jitter (a fraction)."""

    first_seconds: float = Field(60.0, gt=0)
    factor: float = Field(2.0, ge=1)
    cap_seconds: float = Field(600.0, gt=0)
    jitter: float = Field(0.2, ge=0, lt=1)


class LaneSettings(_Section):
    """One lane; what each setting means stands in backline.toml."""

    channel: Literal["email", "sms", "push", "webhook"]
    priority: int = Field(5, ge=1, le=10)
    queue: Literal["critical", "default", "bulk", "reports"] = "default"
    dispatchers: int = Field(1, ge=1, le=16)
    backlog_per_dispatcher: int = Field(2000, ge=1)
    batch: int = Field(500, ge=1, le=5000)
    lease_seconds: float = Field(60.0, ge=3, le=600)
    idle_seconds: float = Field(120.0, ge=0)
    oldest_limit_seconds: float = Field(60.0, ge=1)
    rate_per_minute: float = Field(0.0, ge=0)
    rate_burst: int = Field(10, ge=1)
    domain_rates_per_minute: dict[str, PositiveFloat] = Field(default_factory=dict)
    max_attempts: int = Field(6, ge=1, le=50)


DEFAULT_RETRIES: dict[FailureClass, RetrySettings] = {
    FailureClass.TIMEOUT: RetrySettings(),
    FailureClass.NETWORK: RetrySettings(),
    FailureClass.DATABASE: RetrySettings(first_seconds=5, cap_seconds=60),
    FailureClass.RATE_LIMITED: RetrySettings(),
    FailureClass.RESOURCE: RetrySettings(first_seconds=300, cap_seconds=1800),
    FailureClass.UNKNOWN: RetrySettings(),
}


class Settings(BaseSettings):
    """All of Backline's settings. Get them from `settings()`."""

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix=ENVIRONMENT_PREFIX, env_nested_delimiter="__"
    )

    email: EmailSettings = EmailSettings()
    templates: TemplateSettings = TemplateSettings()
    outbox: OutboxSettings = OutboxSettings()
    doorbell: DoorbellSettings = DoorbellSettings()
    http: HttpSettings = HttpSettings()
    retry: dict[FailureClass, RetrySettings] = Field(default_factory=lambda: dict(DEFAULT_RETRIES))
    lanes: dict[str, LaneSettings]
    direct_pools: dict[str, PositiveInt] = Field(default_factory=lambda: {"email_direct": 8})

    @field_validator("retry", mode="before")
    @classmethod
    def _fill_in(cls, given: object) -> object:
        """A section or line that is left out has its class's default."""
        if not isinstance(given, dict):
            return given
        defaults = {name.value: policy.model_dump() for name, policy in DEFAULT_RETRIES.items()}
        changed = {name: value for name, value in given.items() if not isinstance(value, dict)}
        merged = {
            name: {**defaults.get(name, {}), **given.get(name, {})} for name in {*defaults, *given} - set(changed)
        }
        return {**merged, **changed}

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 - pydantic-settings' signature
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment beats the file, which is passed as init values."""
        return env_settings, init_settings

    def lane(self, name: str) -> LaneSettings:
        """The lane of that name; Misconfigured if there is none."""
        try:
            return self.lanes[name]
        except KeyError:
            known = ", ".join(sorted(self.lanes))
            raise Misconfigured(
                f'lane {name!r} is not in backline.toml; add [lanes."{name}"] or use one of: {known}'
            ) from None


def config_file() -> Path:
    """Where the settings are: BACKLINE_CONFIG, else `include/config/backline.toml`."""
    return Path(os.environ.get("BACKLINE_CONFIG") or ROOT / "include" / "config" / "backline.toml")


def load(path: Path) -> Settings:
    """Read and check one settings file; Misconfigured names file, key and fix."""
    try:
        values: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise Misconfigured(
            f"{path}: no such file; set BACKLINE_CONFIG or restore include/config/backline.toml"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise Misconfigured(f"{path}: not valid TOML: {exc}") from exc
    _check_environment()
    try:
        loaded = Settings(**values)
    except SettingsError as exc:
        raise Misconfigured(f"environment: {exc}; a section takes JSON, a setting is BACKLINE__SECTION__KEY") from None
    except ValidationError as exc:
        raise Misconfigured(f"{path}: " + "; ".join(_explain(error) for error in exc.errors())) from None
    if wrong := sorted(set(loaded.retry) & PERMANENT_CLASSES):
        raise Misconfigured(f"{path}: retry.{wrong[0]}: this class is permanent and never retried; remove the section")
    return loaded


def _check_environment() -> None:
    for name in os.environ:
        section = name.upper().removeprefix(ENVIRONMENT_PREFIX).partition("__")[0].lower()
        if name.upper().startswith(ENVIRONMENT_PREFIX) and section not in Settings.model_fields:
            known = ", ".join(sorted(Settings.model_fields))
            raise Misconfigured(f"environment: {name}: unknown section {section!r}; use one of: {known}")


def _explain(error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{key}: unknown setting; remove it or mend its spelling (all settings: include/config/backline.toml)"
    return f"{key}: {error['msg'][0].lower()}{error['msg'][1:]}"


@lru_cache(maxsize=1)
def settings() -> Settings:
    """The settings of this process, read once."""
    return load(config_file())
