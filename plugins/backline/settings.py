"""Settings: `include/config/backline.toml`, overridden by `BACKLINE__SECTION__KEY`, checked once."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import (
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    field_validator,
    model_validator,
)

from backline.channel_settings import EmailSettings, PushSettings, SmsSettings
from backline.channel_settings import Section as _Section
from backline.environment_settings import ENVIRONMENT_PREFIX, deep_merge, read_environment
from backline.errors import FailureClass, Misconfigured
from backline.invoices.settings import InvoiceSettings
from backline.matching.settings import MatchingSettings
from backline.orders.settings import OrderSettings
from backline.payments.settings import PaymentSettings
from backline.reconciliation.settings import ReconciliationSettings
from backline.subscriptions.settings import SubscriptionSettings
from backline.webhooks.settings import WebhookSettings

ROOT = Path(__file__).resolve().parents[2]
"""The project's root: the folder with `dags/`, `plugins/` and `include/`."""

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})

PERMANENT_CLASSES = frozenset({FailureClass.VALIDATION, FailureClass.AUTHENTICATION, FailureClass.REJECTED})


class TemplateSettings(_Section):
    """What every template can use."""

    product_name: str = "Backline"
    product_url: str = "http://localhost:8080"
    support_email: str = "support@localhost.localdomain"
    language: str = "en"
    time_zone: str = "UTC"

    @field_validator("time_zone")
    @classmethod
    def _validate_time_zone(cls, zone: str) -> str:
        try:
            ZoneInfo(zone)
        except (KeyError, ValueError, OSError):
            raise ValueError(f'{zone!r} is not a time zone; give one of IANA\'s, like "Europe/Berlin"') from None
        return zone


class LinkSettings(_Section):
    """Where links of messages lead: pages of the app; `{token}` stands for the message's token."""

    password_reset: str = "http://localhost:8080/reset-password?token={token}"  # noqa: S105 - the place of one
    account_verification: str = "http://localhost:8080/verify-email?token={token}"
    unsubscribe: str = "http://localhost:8080/backline/unsubscribe/{token}"

    @field_validator("*")
    @classmethod
    def _validate_link(cls, link: str) -> str:
        parts = urlsplit(link)
        if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in LOOPBACK):
            raise ValueError(f"{link!r} must begin with https:// (http:// only for localhost: it carries a token)")
        if link.count("{token}") != 1 or "{token}" in parts.netloc:
            raise ValueError(f"{link!r} must have {{token}} once, after the host: that is where the token goes")
        return link


class DatabaseSettings(_Section):
    """How the app's database is spoken to."""

    statements_folder: str = ""


class OutboxSettings(_Section):
    """The engine's bounds and lifetimes."""

    max_unconfirmed: int = Field(64, ge=1, le=10_000)
    max_rescues: int = Field(5, ge=0, le=100)
    retention_days: int = Field(30, ge=1)
    heartbeat_timeout_seconds: float = Field(10.0, ge=3)
    dispatcher_lifetime_seconds: float = Field(480.0, ge=10, le=780)


class LaneTriggerSettings(_Section):
    """How often the doorbell looks, and how long it is silent after a ring."""

    poll_interval_seconds: float = Field(0.25, ge=0.05, le=10)
    cooldown_seconds: float = Field(5.0, ge=1, le=60)


Topic = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=60)]
ChannelName = Literal["email", "sms", "push", "webhook"]
_TIME_OF_DAY = r"([01]\d|2[0-3]):[0-5]\d"


class PreferenceSettings(_Section):
    """What holds for recipients who have not said otherwise."""

    topics: dict[Topic, str] = Field(default_factory=lambda: {"newsletter": "Newsletter"})
    quiet_hours: dict[ChannelName, Annotated[str, Field(pattern=rf"^{_TIME_OF_DAY}-{_TIME_OF_DAY}$")]] = Field(
        default_factory=dict
    )
    daily_limit: dict[ChannelName, Annotated[int, Field(ge=1, le=1000)]] = Field(default_factory=dict)


class HookSettings(_Section):
    """Which providers may tell of deliveries and payments; one that is empty is closed."""

    ses_topic_arns: tuple[str, ...] = ()
    sendgrid_public_key: str = ""
    mailgun_connection: str = ""
    twilio_connection: str = ""
    stripe_connection: str = ""
    razorpay_connection: str = ""


class HttpSettings(_Section):
    """The HTTP API in Airflow's api-server."""

    max_body_mib: float = Field(32.0, gt=0, le=1024)
    max_db_connections: int = Field(4, ge=1, le=64)
    pool_timeout_seconds: float = Field(5.0, gt=0, le=60)
    search_timeout_seconds: float = Field(5.0, gt=0, le=60)


class RetrySettings(_Section):
    """Delay before try n + 1: `initial_delay_seconds * factor^(n - 1)`, capped, ± jitter (a fraction)."""

    initial_delay_seconds: float = Field(60.0, gt=0)
    multiplier: float = Field(2.0, ge=1)
    max_delay_seconds: float = Field(600.0, gt=0)
    jitter: float = Field(0.2, ge=0, lt=1)

    def backoff_seconds(self, attempt: int) -> float:
        """Seconds after that try, from 1, without cap and jitter."""
        # The exponent is bounded so that a high attempt number cannot overflow the float.
        return self.initial_delay_seconds * self.multiplier ** min(attempt - 1, 64)


Queue = Literal["critical", "default", "bulk", "reports"]
"""Airflow queues: which Celery workers take a task, at scale."""


class LaneSettings(_Section):
    """One lane; what each setting means stands in backline.toml."""

    channel: ChannelName
    priority: int = Field(5, ge=1, le=10)
    queue: Queue = "default"
    max_dispatchers: int = Field(1, ge=1, le=16)
    backlog_per_dispatcher: int = Field(2000, ge=1)
    batch_size: int = Field(500, ge=1, le=5000)
    lease_seconds: float = Field(60.0, ge=3, le=600)
    idle_timeout_seconds: float = Field(120.0, ge=0)
    max_age_seconds: float = Field(60.0, ge=1)
    rate_per_minute: float = Field(0.0, ge=0)
    rate_burst: int = Field(10, ge=1)
    domain_rates_per_minute: dict[str, PositiveFloat] = Field(default_factory=dict)
    max_attempts: int = Field(6, ge=1, le=50)


class AlertSettings(_Section):
    """Who hears of failures, and how often."""

    recipients: tuple[str, ...] = ("operators@localhost.localdomain",)
    window_seconds: float = Field(1800.0, ge=1)


class DeadLetterSettings(_Section):
    """How long dead letters are kept, and where they go."""

    retention_hours: float = Field(168.0, ge=1)
    max_count: int = Field(10_000, ge=1)
    archive_folder: str = "archive/dead_letters"
    poll_interval_seconds: float = Field(5.0, ge=1, le=30)


_HARD_LIMIT_MARGIN_SECONDS = 60.0


class JobDefaults(_Section):
    """What a job has unless it says otherwise; what each setting means stands in backline.toml."""

    pool: str = "database"
    priority: int = Field(5, ge=1, le=10)
    queue: Queue = "default"
    retries: int = Field(3, ge=0, le=50)
    backoff_multiplier: float = Field(1.0, gt=0, le=100)
    soft_limit_seconds: float = Field(540.0, gt=0)
    hard_limit_seconds: float = Field(0.0, ge=0)
    memory_limit_mib: int = Field(0, ge=0)
    rate_per_minute: float = Field(0.0, ge=0)
    deadline_seconds: float = Field(0.0, ge=0)
    result_ttl_seconds: float = Field(3600.0, gt=0)
    tags: tuple[str, ...] = ()


class JobSettings(JobDefaults):
    """One job."""

    schedule: str = ""
    enabled: bool = True

    @property
    def effective_hard_limit_seconds(self) -> float:
        """Seconds after which a task is killed: its own, or a minute after the soft limit."""
        return self.hard_limit_seconds or self.soft_limit_seconds + _HARD_LIMIT_MARGIN_SECONDS


class JobsSettings(JobDefaults):
    """The defaults, and by name what an operator has changed for one job."""

    overrides: dict[str, JobSettings] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _collect_overrides(cls, given: object) -> object:
        """A table inside [jobs] is a job; everything else is a default."""
        if not isinstance(given, dict):
            return given
        overrides = {name: value for name, value in given.items() if isinstance(value, dict)}
        return {**{name: value for name, value in given.items() if name not in overrides}, "overrides": overrides}


DIRECT_POOLS = {"email_direct": 8, "sms_direct": 4, "push_direct": 4, "webhook_direct": 4}

DEFAULT_RETRY_POLICIES: dict[FailureClass, RetrySettings] = {
    FailureClass.TIMEOUT: RetrySettings(),
    FailureClass.NETWORK: RetrySettings(),
    FailureClass.DATABASE: RetrySettings(initial_delay_seconds=5, max_delay_seconds=60),
    FailureClass.RATE_LIMITED: RetrySettings(),
    FailureClass.RESOURCE: RetrySettings(initial_delay_seconds=300, max_delay_seconds=1800),
    FailureClass.UNKNOWN: RetrySettings(),
}


JOB_POOLS = {"payments": 4, "orders": 4, "reports": 2, "database": 4, "sync": 4, "files": 2, "monitoring": 2}


class Settings(_Section):
    """All of Backline's settings. Get them from `settings()`."""

    email: EmailSettings = Field(default_factory=EmailSettings)
    sms: SmsSettings = Field(default_factory=SmsSettings)
    push: PushSettings = Field(default_factory=PushSettings)
    templates: TemplateSettings = Field(default_factory=TemplateSettings)
    links: LinkSettings = Field(default_factory=LinkSettings)
    database: DatabaseSettings = Field(default_factory=DatabaseSettings)
    outbox: OutboxSettings = Field(default_factory=OutboxSettings)
    lane_trigger: LaneTriggerSettings = Field(default_factory=LaneTriggerSettings)
    http: HttpSettings = Field(default_factory=HttpSettings)
    preferences: PreferenceSettings = Field(default_factory=PreferenceSettings)
    hooks: HookSettings = Field(default_factory=HookSettings)
    webhooks: WebhookSettings = Field(default_factory=WebhookSettings)
    payments: PaymentSettings = Field(default_factory=PaymentSettings)
    invoices: InvoiceSettings = Field(default_factory=InvoiceSettings)
    reconciliation: ReconciliationSettings = Field(default_factory=ReconciliationSettings)
    orders: OrderSettings = Field(default_factory=OrderSettings)
    matching: MatchingSettings = Field(default_factory=MatchingSettings)
    subscriptions: SubscriptionSettings = Field(default_factory=SubscriptionSettings)
    retry: dict[FailureClass, RetrySettings] = Field(default_factory=lambda: dict(DEFAULT_RETRY_POLICIES))
    lanes: dict[str, LaneSettings]
    direct_pools: dict[str, PositiveInt] = Field(default_factory=lambda: dict(DIRECT_POOLS))
    alerts: AlertSettings = Field(default_factory=AlertSettings)
    dead_letters: DeadLetterSettings = Field(default_factory=DeadLetterSettings)
    jobs: JobsSettings = Field(default_factory=JobsSettings)
    job_pools: dict[str, PositiveInt] = Field(default_factory=lambda: dict(JOB_POOLS))

    @field_validator("retry", mode="before")
    @classmethod
    def _apply_retry_defaults(cls, given: object) -> object:
        """A section or line that is left out has its class's default."""
        if not isinstance(given, dict):
            return given
        defaults = {name.value: policy.model_dump() for name, policy in DEFAULT_RETRY_POLICIES.items()}
        changed = {name: value for name, value in given.items() if not isinstance(value, dict)}
        merged = {
            name: {**defaults.get(name, {}), **given.get(name, {})} for name in {*defaults, *given} - set(changed)
        }
        return {**merged, **changed}

    def lane(self, name: str) -> LaneSettings:
        """The lane of that name; Misconfigured if there is none."""
        try:
            return self.lanes[name]
        except KeyError:
            known = ", ".join(sorted(self.lanes))
            raise Misconfigured(
                f'lane {name!r} is not in backline.toml; add [lanes."{name}"] or use one of: {known}'
            ) from None

    def job(self, name: str, declared: Mapping[str, Any]) -> JobSettings:
        """A job's settings: the defaults, over them what its file declares, over that what an operator has set.

        Misconfigured names the job and the setting that is wrong.
        """
        changed = self.jobs.overrides.get(name)
        values = {
            **self.jobs.model_dump(exclude={"overrides"}),
            **declared,
            **(changed.model_dump(exclude_unset=True) if changed else {}),
        }
        try:
            job = JobSettings(**values)
        except ValidationError as exc:
            raise Misconfigured(f"job {name!r}: " + "; ".join(_format_error(error) for error in exc.errors())) from None
        if job.pool not in self.job_pools:
            raise Misconfigured(
                f"job {name!r}: pool: {job.pool!r} is not in [job_pools]; add it there or use one of: "
                + ", ".join(sorted(self.job_pools))
            )
        if job.effective_hard_limit_seconds <= job.soft_limit_seconds:
            raise Misconfigured(
                f"job {name!r}: hard_limit_seconds: must be more than soft_limit_seconds ({job.soft_limit_seconds:.0f}), or 0"
            )
        return job


def resolve_folder(setting: str) -> Path:
    """A folder that a setting names: under BACKLINE_HOME, or under the project's root; an absolute one as it is."""
    return Path(os.environ.get("BACKLINE_HOME") or ROOT) / setting


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
        loaded = Settings(**deep_merge(values, read_environment()))
    except ValidationError as exc:
        raise Misconfigured(f"{path}: " + "; ".join(_format_error(error) for error in exc.errors())) from None
    if wrong := sorted(set(loaded.retry) & PERMANENT_CLASSES):
        raise Misconfigured(f"{path}: retry.{wrong[0]}: this class is permanent and never retried; remove the section")
    return loaded


def _check_environment() -> None:
    for name in os.environ:
        section = name.upper().removeprefix(ENVIRONMENT_PREFIX).partition("__")[0].lower()
        if name.upper().startswith(ENVIRONMENT_PREFIX) and section not in Settings.model_fields:
            known = ", ".join(sorted(Settings.model_fields))
            raise Misconfigured(f"environment: {name}: unknown section {section!r}; use one of: {known}")


def _format_error(error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"] if part != "overrides")
    if error["type"] == "extra_forbidden":
        return f"{key}: unknown setting; remove it or mend its spelling (all settings: include/config/backline.toml)"
    return f"{key}: {error['msg'][0].lower()}{error['msg'][1:]}"


@lru_cache(maxsize=1)
def settings() -> Settings:
    """The settings of this process, read once."""
    return load(config_file())
