"""The `dispatch_*` DAGs: a lane's dispatcher as an Airflow task."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import DAG, BaseOperator
from airflow.sdk.exceptions import AirflowSkipException

from backline.airflow.defaults import dag_arguments, lane_pool, task_arguments
from backline.airflow.poller import lane_watch, watch_schedule
from backline.errors import NotConfigured
from backline.settings import Settings

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

    from backline.outbox.dispatcher import Dispatcher

DISPATCH_EXECUTION_TIMEOUT = timedelta(minutes=15)
"""A dispatcher ends long before: a timeout could interrupt it between the provider's OK and the commit."""
FALLBACK_CRON_MINUTES = 15
CRON_STAGGER_MINUTES = 2


class DispatchOperator(BaseOperator):
    """Sends the messages of one lane. A run started by hand drains the lane once; all others then wait for more."""

    def __init__(self, *, lane: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.lane = lane
        self._dispatcher: Dispatcher[Any] | None = None

    def execute(self, context: Context) -> dict[str, object]:
        """Run the dispatcher; returns its attempts by outcome, and why it ended."""
        # Imported here: every task would pay for an import at parse time.
        import uvloop

        from backline.airflow.connections import app_dsn
        from backline.airflow.factories import create_channel, create_delivery
        from backline.airflow.nonblocking_logging import nonblocking_logging
        from backline.outbox.dispatcher import Dispatcher
        from backline.settings import settings

        config = settings()
        lane = config.lane(self.lane)
        try:
            channel = create_channel(lane.channel, config)
        except NotConfigured as exc:
            raise AirflowSkipException(f"the lane {self.lane} cannot send: {exc}") from None
        run = context["dag_run"]
        self._dispatcher = Dispatcher(
            self.lane, lane, config.outbox, app_dsn(), channel, create_delivery(channel, config),
            once=run.run_type == "manual", dag_run=f"{run.dag_id}/{run.run_id}",
        )  # fmt: skip
        with nonblocking_logging():
            report = uvloop.run(self._dispatcher.run()).as_dict()
        self.log.info("dispatcher ended: %s", report)
        return report

    def on_kill(self) -> None:
        """Stop claiming and return the leases. Runs inside the SIGTERM handler; Airflow sends SIGKILL after 5 seconds."""
        if self._dispatcher is not None:
            self._dispatcher.stop("terminated")


def dispatch_dag_id(lane: str) -> str:
    """`dispatch_email` for the lane `email.normal`, `dispatch_email_urgent` for `email.urgent`."""
    channel, _, rest = lane.partition(".")
    return f"dispatch_{channel}" if rest == "normal" else f"dispatch_{channel}_{rest}"


def dispatch_dag(lane_name: str, config: Settings) -> DAG:
    """The DAG of a lane: started by the lane's watch, and by a cron in case the triggerer is down."""
    lane = config.lane(lane_name)
    minute = sorted(config.lanes).index(lane_name) * CRON_STAGGER_MINUTES % FALLBACK_CRON_MINUTES
    dag = DAG(
        dispatch_dag_id(lane_name),
        description=f"Sends the messages of the lane {lane_name}",
        doc_md=_DOC.format(
            lane=lane_name, channel=lane.channel, lanes=lane.max_dispatchers, idle=lane.idle_timeout_seconds
        ),
        schedule=watch_schedule(lane_watch(lane_name), cron=f"{minute}-59/{FALLBACK_CRON_MINUTES} * * * *"),
        # One more than dispatchers, so that a successor starts before its predecessor has ended.
        **dag_arguments("dispatch", lane.channel, max_active_runs=lane.max_dispatchers + 1),
    )
    with dag:
        DispatchOperator(
            task_id="dispatch",
            lane=lane_name,
            doc_md="Claims, sends and completes messages in batches until the lane is idle.",
            **task_arguments(
                pool=lane_pool(lane_name), queue=lane.queue, priority=lane.priority, retries=0,
                execution_timeout=DISPATCH_EXECUTION_TIMEOUT,
            ),
        )  # fmt: skip
    return dag


_DOC = """\
### Sends the messages of the lane `{lane}`

Messages are rows of `backline.message`. This DAG runs the dispatchers that claim and send those of one lane (channel
{channel}): one, or up to {lanes} in parallel if the backlog is large.

- **Started by** the lane's watch, within a fraction of a second of the first message, and every 15 minutes in case the
  triggerer is down. A run that finds no message ends at once.
- **Stays warm** for {idle:.0f} s after its last message, so that the next one is sent within milliseconds. It ends after
  8 minutes at most, and the next run takes over.
- **Started by hand** it drains the lane once and ends.
- **Safe to kill**: its messages return to the outbox, and another run sends them.
"""
