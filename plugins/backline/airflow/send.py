"""The `send_*` DAGs: one message, delivered inside the run that a person or program started."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import DAG, BaseOperator
from airflow.sdk.definitions.retry_policy import RetryDecision, RetryPolicy
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from backline.airflow.defaults import dag_arguments, direct_pool, task_arguments
from backline.airflow.params import params_for
from backline.errors import FailureClass, InvalidInput, Misconfigured, PermanentError, RetryableError
from backline.messages.run_conf import DAG_PREFIX
from backline.settings import Settings

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

    from backline.messages.base import MessageType
    from backline.outbox.inline_delivery import SendResult

RETRY_MARGIN_SECONDS = 0.5
"""So that Airflow never retries before the message is due."""


class RetryLater(AirflowException):
    """Not sent yet: the outbox has scheduled a retry. Text and `delay` survive pickling."""

    def __init__(self, reason: str, delay: float) -> None:
        super().__init__(reason, delay)
        self.delay = delay

    def __str__(self) -> str:
        return f"{self.args[0]}; next attempt in {self.delay:.0f} s"


class OutboxRetryPolicy(RetryPolicy):
    """Airflow retries when the message is due in the outbox."""

    def evaluate(
        self,
        exception: BaseException,
        try_number: int,  # noqa: ARG002 - Airflow's signature
        max_tries: int,  # noqa: ARG002
        context: Context | None = None,  # noqa: ARG002
    ) -> RetryDecision:
        """Retry at the message's due time; other errors follow Airflow's own rules."""
        if isinstance(exception, RetryLater):
            return RetryDecision.retry(timedelta(seconds=exception.delay + RETRY_MARGIN_SECONDS), str(exception))
        return RetryDecision.default()


class SendOperator(BaseOperator):
    """Sends one message, over each channel that has a recipient; the run's conf is its content."""

    def __init__(self, *, message_type: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.message_type = message_type

    def execute(self, context: Context) -> dict[str, object]:
        """Send; returns the message's id, state, attempts and provider id (per channel if several), and no content."""
        from backline.airflow.connections import app_dsn
        from backline.airflow.factories import create_channel, create_delivery
        from backline.messages import registry
        from backline.messages.recipients import channels_of
        from backline.messages.run_conf import split_conf
        from backline.messages.secrets import check_no_plaintext_secrets
        from backline.outbox.inline_delivery import InlineSender, Route
        from backline.outbox.submission import NewMessage
        from backline.settings import settings

        run = context["dag_run"]
        try:
            kind = registry.get(self.message_type)
            recipient, payload, options = split_conf(kind, dict(context["params"]))
            check_no_plaintext_secrets(kind, payload)
            config = settings()
            routes: dict[str, Route] = {}
            for name in channels_of(kind.channels, recipient):
                channel = create_channel(name, config)
                routes[name] = Route(channel, create_delivery(channel, config), config.lane(kind.lane_for(name)))
            sender = InlineSender(app_dsn(), routes)
            message = NewMessage(
                type=self.message_type, recipient=recipient, payload=payload, key=f"{run.dag_id}/{run.run_id}",
                request_id=options.request_id, priority=options.priority,
                expires_at=options.expires_at or kind.expiry(payload, datetime.now(UTC)),
            )  # fmt: skip
            results = asyncio.run(sender.send(message, dag_run=f"{run.dag_id}/{run.run_id}"))
        except (PermanentError, Misconfigured) as exc:
            raise AirflowFailException(str(exc)) from None
        except RetryableError as exc:
            raise RetryLater(str(exc), settings().retry[FailureClass.DATABASE].initial_delay_seconds) from None
        return self._finish(results)

    def _finish(self, results: Sequence[SendResult]) -> dict[str, object]:
        """The run's outcome: retry while a message is unfinished, fail if one is dead, skip if none was sent."""
        several = len(results) > 1
        unsent = [_message(result, several=several) for result in results if result.state != "sent"]
        for result in results:
            if result.state == "sent":
                if result.error:
                    self.log.warning("message %d: %s", result.message_id, result.error)
                self.log.info("message %d sent as %s", result.message_id, result.provider_id)
        waiting = [result for result in results if not result.final]
        if waiting:
            raise RetryLater("; ".join(unsent), min(result.due_in for result in waiting))
        if any(result.state == "dead" for result in results):
            raise AirflowFailException("; ".join(unsent))
        if len(unsent) == len(results):
            raise AirflowSkipException("; ".join(unsent))
        shown = ("channel", "message_id", "state", "attempt", "provider_id")
        answers: list[dict[str, object]] = [{name: getattr(result, name) for name in shown} for result in results]
        if several:
            return {"messages": answers}
        del answers[0]["channel"]
        return answers[0]


def _message(result: SendResult, *, several: bool) -> str:
    where = f"message {result.message_id}" + (f" by {result.channel}" if several else "")
    why = f"{result.error_class}: {result.error}" if result.error_class else result.error or ""
    attempts = f" after {result.attempt} attempts" if result.state == "dead" or not result.final else ""
    return f"{where} is {result.state}{attempts}: {why}"


def send_dag_id(type_name: str) -> str:
    """`send_welcome` for the type `welcome`."""
    return f"{DAG_PREFIX}{type_name}"


def types_to_parse(dag_id: str | None) -> tuple[type[MessageType], ...]:
    """The types whose DAGs the parsing process needs: a task only its own, all other processes all."""
    from backline.messages import registry

    if dag_id is None:
        return registry.all_types()
    try:
        return (registry.get(dag_id.removeprefix(DAG_PREFIX)),)
    except InvalidInput:
        return ()


def send_dag(kind: type[MessageType], config: Settings) -> DAG:
    """The DAG that sends one message of a type; its form comes from the type's model."""
    channel = kind.channels[0]
    lane = config.lane(kind.lane_for(channel))
    summary = (kind.__doc__ or kind.type_name).strip().split("\n")[0]
    dag = DAG(
        send_dag_id(kind.type_name),
        description=summary,
        doc_md=_DOC.format(summary=summary, type=kind.type_name, lane=kind.lane_for(channel)),
        schedule=None,
        params=params_for(kind),
        **dag_arguments("send", *kind.channels, max_active_runs=64, max_active_tasks=64),
    )
    with dag:
        SendOperator(
            task_id="send",
            message_type=kind.type_name,
            doc_md="Enqueues the message, delivers it, and records the outcome.",
            **task_arguments(
                pool=direct_pool(channel), queue=lane.queue, priority=lane.priority,
                retries=(kind.max_attempts or lane.max_attempts) - 1,
                retry_delay=timedelta(seconds=config.retry[FailureClass.UNKNOWN].initial_delay_seconds),
                retry_exponential_backoff=config.retry[FailureClass.UNKNOWN].multiplier,
                max_retry_delay=timedelta(seconds=config.retry[FailureClass.UNKNOWN].max_delay_seconds),
                retry_policy=OutboxRetryPolicy(),
            ),
        )  # fmt: skip
    return dag


_DOC = """\
### {summary}

Sends one message of the type `{type}` and waits for the provider's answer.

- **Content** is the run's conf; the form shows the fields. Fields, limits and samples: `docs/messages.md`.
- **Once**: the run id is the idempotency key. A run that is cleared or retried never sends twice; a run id that was
  used is refused.
- **Retries** depend on the failure: none for a wrong address, with growing delays for a server that is not available.
  Between two attempts the message waits in the outbox. If the lane `{lane}` sends it first, the run succeeds as well.
- **Many messages** are better enqueued in SQL, in your own transaction:
  `SELECT backline.enqueue('{type}', recipient, payload)`.
"""
