"""The sections that the engine and the job kernel need; every other section is declared beside its code."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Literal, Self, cast

from pydantic import Field, PositiveFloat, PositiveInt, PrivateAttr, ValidationError, field_validator, model_validator

from backline.errors import FailureClass, Misconfigured
from backline.settings import base
from backline.settings.base import Section, SectionT, deep_merge, format_errors, registered_sections

CHANNELS = tuple(sorted(path.parent.name for path in base.LIBRARY.glob("channels/*/channel.py")))
"""Every channel: a folder in `channels/`."""
if TYPE_CHECKING:
    ChannelName = str
else:  # with the names as pydantic needs them, for its errors and JSON schemas
    ChannelName = Literal[CHANNELS]


class DatabaseSettings(Section):
    """How the app's database is spoken to."""

    statements_folder: str = ""


class OutboxSettings(Section):
    """The engine's bounds and lifetimes."""

    max_unconfirmed: int = Field(64, ge=1, le=10_000)
    max_rescues: int = Field(5, ge=0, le=100)
    retention_days: int = Field(30, ge=1)
    heartbeat_timeout_seconds: float = Field(10.0, ge=3)
    dispatcher_lifetime_seconds: float = Field(480.0, ge=10, le=780)


class LaneTriggerSettings(Section):
    """How often the poller checks all lanes, and how long it waits after a lane's event."""

    poll_interval_seconds: float = Field(0.25, ge=0.05, le=10)
    cooldown_seconds: float = Field(5.0, ge=1, le=60)


class WatchSettings(Section):
    """A statement whose first value is true when a DAG has work to do."""

    statement: Annotated[str, Field(pattern=r"^\w+\.\w+$")]
    interval_seconds: float = Field(5.0, ge=0.5, le=3600)
    cooldown_seconds: float = Field(10.0, ge=1, le=3600)


WatchName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=60)]


class RetrySettings(Section):
    """Delay before try n + 1: `initial_delay_seconds * factor^(n - 1)`, capped, ± jitter (a fraction)."""

    initial_delay_seconds: float = Field(60.0, gt=0)
    multiplier: float = Field(2.0, ge=1)
    max_delay_seconds: float = Field(600.0, gt=0)
    jitter: float = Field(0.2, ge=0, lt=1)

    def backoff_seconds(self, attempt: int) -> float:
        """Seconds after that try, from 1, without cap and jitter."""
        # The exponent is bounded so that a high attempt number cannot overflow the float.
        return self.initial_delay_seconds * self.multiplier ** min(attempt - 1, 64)


class ScheduledRetry(RetrySettings):
    """Delays from a list: the first one follows the first attempt, the last one every attempt beyond the list's end."""

    schedule: tuple[PositiveFloat, ...] = Field(min_length=1)

    def backoff_seconds(self, attempt: int) -> float:
        """The listed delay."""
        return self.schedule[min(attempt, len(self.schedule)) - 1]


Queue = Literal["critical", "default", "bulk", "reports"]
"""Airflow queues: which Celery workers take a task, at scale."""


class LaneSettings(Section):
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


class AlertSettings(Section):
    """Who hears of failures, and how often."""

    recipients: tuple[str, ...] = ("operators@localhost.localdomain",)
    window_seconds: float = Field(1800.0, ge=1)


_HARD_LIMIT_MARGIN_SECONDS = 60.0


class JobDefaults(Section):
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


DIRECT_POOLS = {f"{channel}_direct": 8 if channel == "email" else 4 for channel in CHANNELS}

DEFAULT_RETRY_POLICIES: dict[FailureClass, RetrySettings] = {
    FailureClass.TIMEOUT: RetrySettings(),
    FailureClass.NETWORK: RetrySettings(),
    FailureClass.DATABASE: RetrySettings(initial_delay_seconds=5, max_delay_seconds=60),
    FailureClass.RATE_LIMITED: RetrySettings(),
    FailureClass.RESOURCE: RetrySettings(initial_delay_seconds=300, max_delay_seconds=1800),
    FailureClass.UNKNOWN: RetrySettings(),
}


JOB_POOLS = {"payments": 4, "orders": 4, "reports": 2, "database": 4, "sync": 4, "files": 2, "monitoring": 2}


class Settings(Section):
    """All of Backline's settings; get them from `settings()`. What is not of the engine is read with `section`."""

    _sections: dict[type[Section], Section] = PrivateAttr(default_factory=dict)
    _of_jobs: dict[str, object] = PrivateAttr(default_factory=dict)
    """What the file has for the sections of single jobs: they are built when the job runs, as their modules import its code."""

    database: DatabaseSettings = Field(default_factory=DatabaseSettings)
    outbox: OutboxSettings = Field(default_factory=OutboxSettings)
    lane_trigger: LaneTriggerSettings = Field(default_factory=LaneTriggerSettings)
    watches: dict[WatchName, WatchSettings] = Field(default_factory=dict)
    retry: dict[FailureClass, RetrySettings] = Field(default_factory=lambda: dict(DEFAULT_RETRY_POLICIES))
    lanes: dict[str, LaneSettings]
    direct_pools: dict[str, PositiveInt] = Field(default_factory=lambda: dict(DIRECT_POOLS))
    alerts: AlertSettings = Field(default_factory=AlertSettings)
    jobs: JobsSettings = Field(default_factory=JobsSettings)
    job_pools: dict[str, PositiveInt] = Field(default_factory=lambda: dict(JOB_POOLS))

    @field_validator("direct_pools", mode="before")
    @classmethod
    def _apply_pool_defaults(cls, given: object) -> object:
        """A channel that is left out has its default."""
        return {**DIRECT_POOLS, **given} if isinstance(given, dict) else given

    @field_validator("retry", mode="before")
    @classmethod
    def _apply_retry_defaults(cls, given: object) -> object:
        """A section or line that is left out has its class's default."""
        if not isinstance(given, dict):
            return given
        defaults = {name.value: policy.model_dump() for name, policy in DEFAULT_RETRY_POLICIES.items()}
        return deep_merge(defaults, given)

    @classmethod
    def build(cls, values: Mapping[str, object]) -> Self:
        """Settings from the values of a file, by section; ValidationError, or Misconfigured naming a section's setting."""
        sections = registered_sections()
        others = {name: value for name, value in values.items() if name not in sections}
        of_jobs = {name: others.pop(name) for name in others.keys() - cls.model_fields if base.find_job_section(name)}
        built = cls(**others)
        built._of_jobs = of_jobs
        built._sections = {model: base.build_section(name, values.get(name, {})) for name, model in sections.items()}
        return built

    def job_section(self, job: str, domain: str) -> Section | None:
        """The job's own section, else its domain's, else None; Misconfigured names a wrong setting of the job's own."""
        if module := base.find_job_section(job):
            import_module(module)
            return base.build_section(job, self._of_jobs.get(job, {}))
        sections = registered_sections()
        return self.section(sections[domain]) if domain in sections else None

    def check_job_sections(self) -> None:
        """Misconfigured names a wrong setting of a job's own section, which otherwise only its runs check."""
        for job in self._of_jobs:
            self.job_section(job, "")

    def section(self, model: type[SectionT]) -> SectionT:
        """The section of that class: `settings().section(OrderSettings)`."""
        return cast("SectionT", self._sections[model])

    def lane(self, name: str) -> LaneSettings:
        """The lane of that name; Misconfigured if there is none."""
        try:
            return self.lanes[name]
        except KeyError:
            known = ", ".join(sorted(self.lanes))
            raise Misconfigured(
                f'lane {name!r} is not in backline.toml; add [lanes."{name}"] or use one of: {known}'
            ) from None

    def job(self, name: str, declared: Mapping[str, object]) -> JobSettings:
        """A job's settings: an operator's, else its file's, else the defaults. Misconfigured names job and setting."""
        changed = self.jobs.overrides.get(name, JobSettings()).model_dump(exclude_unset=True)
        values = {**self.jobs.model_dump(exclude={"overrides"}), **declared, **changed}
        try:
            job = JobSettings(**values)
        except ValidationError as exc:
            raise Misconfigured(f"job {name!r}: {format_errors(exc)}") from None
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
