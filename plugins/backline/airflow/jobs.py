"""Jobs: a DAG that has all that every job has, from one function and one table of settings (docs/jobs.md)."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

from airflow.sdk import DAG, BaseOperator
from airflow.sdk.definitions.callback import SyncCallback
from airflow.sdk.definitions.deadline import DeadlineAlert, DeadlineReference
from airflow.sdk.definitions.retry_policy import RetryDecision, RetryPolicy
from airflow.sdk.exceptions import AirflowSkipException, TaskDeferred

from backline.airflow.callbacks import record_late_run, record_run_failure, record_task_failure
from backline.airflow.defaults import dag_arguments, task_arguments
from backline.errors import FailureClass, NotConfigured
from backline.settings import JobSettings, settings

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context
    from airflow.sdk.definitions.mappedoperator import MappedOperator
    from airflow.sdk.definitions.xcom_arg import XComArg

    from backline.jobs.job import Job

TIMEOUT_COUNT_KEY = "backline_timeouts"
"""Key of the task's state store: how many tries of this task have timed out."""
TIMEOUT_GROWTH = 1.5
MAX_TIMEOUT_GROWTH = 4.0
"""After a timeout the next try gets `TIMEOUT_GROWTH` times as long, up to `LONGEST` times the limit."""
RESUME_METHOD = "execute_after_rate"

_registered_jobs: dict[str, JobSettings] = {}


@dataclass(frozen=True, slots=True)
class Requires:
    """What a job cannot do without; without it the job is skipped, and says how to configure it."""

    connections: tuple[str, ...] = ()
    """Ids of Airflow connections."""
    tables: tuple[str, ...] = ()
    """Tables, views and columns of the app's database, with their schema: "app.orders", "app.orders.paid_at"."""


class JobRetryPolicy(RetryPolicy):
    """By failure class: permanent ones fail at once, the others wait as [retry.*] says, with real jitter."""

    def __init__(self, backoff: float) -> None:
        """`backoff` multiplies every pause."""
        self.backoff = backoff

    def evaluate(
        self, exception: BaseException, try_number: int, max_tries: int, context: Context | None = None
    ) -> RetryDecision:
        """Fail, or retry after a pause; when no try is left Airflow decides, which is to fail."""
        from backline.dead_letters.failures import classify
        from backline.outbox.delivery import retry_delay

        failure_class = classify(exception)
        policies = settings().retry
        if failure_class not in policies:
            return RetryDecision.fail(f"{failure_class} errors are permanent")
        if failure_class is FailureClass.TIMEOUT and context is not None:
            store = context["task_state_store"]
            store.set(TIMEOUT_COUNT_KEY, _as_count(store.get(TIMEOUT_COUNT_KEY)) + 1)
        retries = context["task"].retries if context is not None else max_tries
        attempt = try_number - (max_tries - (retries or 0))  # counted anew after a clear
        wish = getattr(exception, "retry_after", None)
        pause = retry_delay(policies, failure_class, max(1, attempt), 10**6, None, random.random)
        if pause is None:
            return RetryDecision.default()
        pause *= self.backoff
        if wish is not None:
            pause = max(pause, retry_delay(policies, failure_class, max(1, attempt), 10**6, wish, random.random) or 0.0)
        return RetryDecision.retry(timedelta(seconds=pause), f"{failure_class} error: again in {pause:.0f} s")


@dataclass(frozen=True, slots=True)
class PreExecute:
    """The tasks' `pre_execute`: skips an unconfigured job, waits for its rate, sets its limits."""

    name: str
    job: JobSettings
    requires: Requires

    def __call__(self, context: Context) -> None:
        """AirflowSkipException when something is not configured; TaskDeferred when there is no token."""
        task, ti = cast("BaseOperator", context["task"]), context["ti"]
        _reject_unknown_params(context)
        _skip_unless_configured(self.requires)
        # Defined for every task, because a deferred one is resumed by a method's name, with the trigger's event.
        setattr(task, RESUME_METHOD, lambda resumed, **_: task.execute(resumed))
        resumed = getattr(getattr(ti, "_ti_context_from_server", None), "next_method", None)
        if self.job.rate_per_minute and resumed is None:
            _defer_until_token(self.name, self.job.rate_per_minute)
        longer = 1.0
        if ti.try_number > 1:
            longer = min(
                TIMEOUT_GROWTH ** _as_count(context["task_state_store"].get(TIMEOUT_COUNT_KEY)), MAX_TIMEOUT_GROWTH
            )
        if task.execution_timeout is not None:
            task.execution_timeout *= longer
        if not _is_dags_test():
            from backline.jobs.watchdog import start_watchdog

            start_watchdog(self.job.effective_hard_limit_seconds * longer, self.job.memory_limit_mib)


def job_dag(
    name: str,
    *,
    doc: str | None,
    schedule: Any = None,
    params: Mapping[str, object] | None = None,
    requires: Requires = Requires(),
    max_active_runs: int = 16,
    **declared: Any,
) -> DAG:
    """The DAG of a job. `doc` is its file's docstring, whose first line becomes the description.

    `schedule` is a cron expression, a preset such as "@daily", an asset, or None for a job that is started. `declared`
    is what it wants otherwise than [jobs] in backline.toml (`pool="reports"`, `retries=0`, `soft_limit_seconds=60`);
    an operator's [jobs."name"] beats both. Misconfigured names a setting that is wrong.
    """
    config = settings()
    if isinstance(schedule, str):
        declared["schedule"] = schedule
    job = config.job(name, declared)
    changed = config.jobs.overrides.get(name)
    if job.schedule and (isinstance(schedule, str) or (changed is not None and changed.schedule)):
        schedule = job.schedule
    _registered_jobs[name] = job
    text = (doc or "").strip()
    return DAG(
        name,
        description=text.split("\n", 1)[0].strip("# ").rstrip("."),
        doc_md=text,
        schedule=schedule if job.enabled else None,
        params=dict(params or {}),
        default_args=_task_defaults(name, job, requires),
        on_failure_callback=record_run_failure,
        deadline=_deadline(job),
        **dag_arguments("job", *job.tags, max_active_runs=max_active_runs),
    )


def job_task(
    function: str,
    *,
    inputs: Mapping[str, object] | None = None,
    expand: XComArg | None = None,
    task_id: str | None = None,
    stores_result: bool = True,
    **arguments: Any,
) -> JobOperator | MappedOperator:
    """A task of the job whose DAG is being built: calls `function` with the run's `Job`.

    `function` is "backline.orders.send_order_reminders" (the function of the module's name) or
    "backline.payments.retry_failed_payments:plan"; it is imported when the task runs, not when the DAG file is parsed. What it
    returns is the task's XCom and, with `stores_result`, the run's result (of several tasks the last one's; never of a mapped
    one's). `inputs`: further keyword arguments, such as another task's `.output`; `expand`: one mapped task for each mapping
    of keyword arguments in that output. `arguments` go to the operator (`trigger_rule=`, `max_active_tis_per_dagrun=`).
    """
    module, _, name = function.partition(":")
    settled = {
        "task_id": task_id or name or module.rpartition(".")[2],
        "doc_md": f"Calls `{module}.{name or module.rpartition('.')[2]}`.",
        **arguments,
    }
    if expand is not None:
        return JobOperator.partial(function=function, stores_result=False, **settled).expand(inputs=expand)
    return JobOperator(function=function, inputs=dict(inputs or {}), stores_result=stores_result, **settled)


class JobOperator(BaseOperator):
    """Runs one function of the library as a task of a job; see `job_task`."""

    template_fields = ("inputs",)

    def __init__(
        self, *, function: str, inputs: Mapping[str, object] | None = None, stores_result: bool = True, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.function, self.inputs, self.stores_result = function, inputs, stores_result

    def execute(self, context: Context) -> Any:
        """Build the `Job`, call the function, store the result. AirflowSkipException for what raises `Skipped`."""
        from importlib import import_module

        from backline.errors import Skipped

        module, _, name = self.function.partition(":")
        function = getattr(import_module(module), name or module.rpartition(".")[2])
        inputs = {key: value if isinstance(value, str | Mapping) or not isinstance(value, Iterable) else list(value)
                  for key, value in (self.inputs or {}).items()}  # fmt: skip
        try:
            return create_job(context, module.split(".")[1]).execute(function, inputs, store=self.stores_result)
        except Skipped as exc:
            raise AirflowSkipException(str(exc)) from None


def create_job(context: Context, domain: str) -> Job[Any]:
    """The `Job` of a running task; its settings are its own section, or that of the domain."""
    from airflow.sdk.configuration import conf as airflow_settings

    from backline.airflow.connections import JobClients, app_dsn
    from backline.jobs.job import Job, Params
    from backline.jobs.results import ResultStore, RunRef

    run, config = context["dag_run"], settings()
    dsn = app_dsn()
    conf = dict(run.conf or {})
    return Job(
        name=run.dag_id,
        run_id=run.run_id,
        settings=config.job_section(run.dag_id, domain),
        params=Params(dict(context["params"])),
        now=datetime.now(UTC),
        dsn=dsn,
        results=ResultStore(dsn, RunRef(run.dag_id, run.run_id), _registered_jobs[run.dag_id].result_ttl_seconds),
        clients=JobClients(),
        alert_recipients=config.alerts.recipients,
        conf=conf,
        max_mapped_tasks=airflow_settings.getint("core", "max_map_length", fallback=1024),
    )


def _task_defaults(name: str, job: JobSettings, requires: Requires) -> dict[str, Any]:
    policy = settings().retry[FailureClass.UNKNOWN]
    return task_arguments(
        pool=job.pool,
        queue=job.queue,
        priority=job.priority,
        execution_timeout=timedelta(seconds=job.soft_limit_seconds),
        retries=job.retries,
        retry_policy=JobRetryPolicy(job.backoff_multiplier),
        # For tries that are killed: no policy runs then.
        retry_delay=timedelta(seconds=policy.initial_delay_seconds * job.backoff_multiplier),
        retry_exponential_backoff=policy.multiplier,
        max_retry_delay=timedelta(seconds=policy.max_delay_seconds * job.backoff_multiplier),
        pre_execute=PreExecute(name, job, requires),
        on_failure_callback=record_task_failure,
    )


def _deadline(job: JobSettings) -> DeadlineAlert | None:
    if not job.deadline_seconds:
        return None
    return DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=timedelta(seconds=job.deadline_seconds),
        callback=SyncCallback(record_late_run, kwargs={"deadline_seconds": job.deadline_seconds}),
    )


def _reject_unknown_params(context: Context) -> None:
    """InvalidInput for a key of the run's conf that the DAG does not declare: Airflow itself accepts any."""
    from backline.jobs.job import Params

    Params(context["dag_run"].conf or {}, context["dag"].params)


def _skip_unless_configured(requires: Requires) -> None:
    from backline.airflow.connections import app_dsn, get_connection
    from backline.jobs.limits import missing_tables

    for wanted in requires.connections:
        try:
            get_connection(wanted)
        except NotConfigured as exc:
            raise AirflowSkipException(str(exc)) from None
    if requires.tables and (missing := missing_tables(app_dsn(), requires.tables)):
        raise AirflowSkipException(
            f"the app's database has no {', '.join(missing)}: point the statements of include/sql at your own tables "
            "(docs/adopting.md), or make the reference app's with ./backline seed"
        )


def _defer_until_token(name: str, rate_per_minute: float) -> None:
    from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger

    from backline.airflow.connections import app_dsn
    from backline.jobs.limits import reserve_rate_token

    wait = reserve_rate_token(app_dsn(), name, rate_per_minute)
    if wait > 0:
        # The token is reserved: the task comes back when it is there, and does not ask again.
        raise TaskDeferred(trigger=TimeDeltaTrigger(timedelta(seconds=wait)), method_name=RESUME_METHOD)


def _is_dags_test() -> bool:
    """Whether the task runs inside `dags test`: to kill it would kill a person's command."""
    from airflow.sdk.execution_time import task_runner

    return type(getattr(task_runner, "SUPERVISOR_COMMS", None)).__name__ == "InProcessSupervisorComms"


def _as_count(value: object) -> int:
    return value if isinstance(value, int) else 0
