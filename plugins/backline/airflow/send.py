"""The send operator: one message, delivered inside the run that a person or program started."""

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
from backline.settings import Settings

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context

    from backline.messages import MessageType
    from backline.outbox.inline_delivery import SendResult

RETRY_MARGIN_SECONDS = 0.5
"""So that the next try never comes before the row is due."""


class RetryLater(AirflowException):
    """Not sent yet: the outbox has put the message off. Its text and `delay` survive pickling."""

    def __init__(self, reason: str, delay: float) -> None:
        super().__init__(reason, delay)
        self.delay = delay

    def __str__(self) -> str:
        return f"{self.args[0]}; next try in {self.delay:.0f} s"


class OutboxRetryPolicy(RetryPolicy):
    """Airflow's retry comes when the outbox's does."""

    def evaluate(
        self,
        exception: BaseException,
        try_number: int,  # noqa: ARG002 - Airflow's signature
        max_tries: int,  # noqa: ARG002
        context: Context | None = None,  # noqa: ARG002
    ) -> RetryDecision:
        """Retry at the row's due time; other errors by Airflow's own rules."""
        if isinstance(exception, RetryLater):
            return RetryDecision.retry(timedelta(seconds=exception.delay + RETRY_MARGIN_SECONDS), str(exception))
        return RetryDecision.default()


class SendOperator(BaseOperator):
    """Sends one message of a type, over each of its channels that has a recipient; the run's conf is its content."""

    def __init__(self, *, message_type: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.message_type = message_type

    def execute(self, context: Context) -> dict[str, object]:
        """Returns message id, state, tries and the provider's id, for each channel of several: nothing of the content."""
        from backline.airflow.connections import app_dsn
        from backline.airflow.factories import create_channel, create_delivery
        from backline.messages import registry, split_conf
        from backline.messages.recipients import channels_of
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
            ways: dict[str, Route] = {}
            for name in channels_of(kind.channels, recipient):
                channel = create_channel(name, config)
                ways[name] = Route(channel, create_delivery(channel, config), config.lane(kind.lane_for(name)))
            sender = InlineSender(app_dsn(), ways)
            message = NewMessage(
                type=self.message_type,
                recipient=recipient,
                payload=payload,
                key=f"{run.dag_id}/{run.run_id}",
                request_id=options.request_id,
                expires_at=options.expires_at or kind.expiry(payload, datetime.now(UTC)),
                priority=options.priority,
            )
            results = asyncio.run(sender.send(message, dag_run=f"{run.dag_id}/{run.run_id}"))
        except (PermanentError, Misconfigured) as exc:
            raise AirflowFailException(str(exc)) from None
        except RetryableError as exc:
            raise RetryLater(str(exc), settings().retry[FailureClass.DATABASE].initial_delay_seconds) from None
        return self._finish(results)

    def _finish(self, results: Sequence[SendResult]) -> dict[str, object]:
        """What they came to, the worst first: dead fails the run, unfinished has it tried again."""
        several = len(results) > 1
        said = {result.message_id: _message(result, several=several) for result in results}
        for result in results:
            if result.state == "sent":
                if result.error:
                    self.log.warning("message %d: %s", result.message_id, result.error)
                self.log.info("message %d sent as %s", result.message_id, result.provider_id)
        waiting = [result for result in results if not result.final]
        if waiting:
            reason = "; ".join(said[result.message_id] for result in results if result.state != "sent")
            raise RetryLater(reason, min(result.due_in for result in waiting))
        if any(result.state == "dead" for result in results):
            raise AirflowFailException(
                "; ".join(said[result.message_id] for result in results if result.state != "sent")
            )
        if all(result.state != "sent" for result in results):
            raise AirflowSkipException("; ".join(said.values()))
        answers: list[dict[str, object]] = [
            {
                "message_id": result.message_id,
                "state": result.state,
                "attempt": result.attempt,
                "provider_id": result.provider_id,
            }
            for result in results
        ]
        if not several:
            return answers[0]
        return {"messages": [{"channel": one.channel, **answer} for one, answer in zip(results, answers, strict=True)]}


def _message(result: SendResult, *, several: bool) -> str:
    where = f"message {result.message_id}" + (f" by {result.channel}" if several else "")
    why = f"{result.error_class}: {result.error}" if result.error_class else result.error or ""
    if result.state == "dead":
        return f"{where} is dead after {result.attempt} tries: {why}"
    if result.final:
        return f"{where} is {result.state}: {why}"
    return f"{where} is {result.state} after {result.attempt} tries: {why}"


def send_dag_id(type_name: str) -> str:
    """`welcome` is sent by `send_welcome`."""
    return f"send_{type_name}"


def types_to_parse(dag_id: str | None) -> tuple[type[MessageType], ...]:
    """The types whose DAGs the process that parses this asks for: a task wants its own, everybody else all."""
    from backline.messages import registry

    if dag_id is None:
        return registry.all_types()
    try:
        return (registry.get(dag_id.removeprefix(send_dag_id(""))),)
    except InvalidInput:
        return ()


def send_dag(kind: type[MessageType], config: Settings) -> DAG:
    """The DAG that sends one message of a type, with a form made from the type's model."""
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
            doc_md="Enqueues the message, delivers it, and writes down how it went.",
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
- **Once**: the run id is the key. The same run, cleared or retried, never sends twice; a run id that was used is refused.
- **Retries** follow the kind of failure (a wrong address never, a server that is away with growing pauses). Between two
  tries the message waits in the outbox, where the lane `{lane}` may send it first; the run then ends well all the same.
- **Many messages** are better enqueued in SQL, in your own transaction:
  `SELECT backline.enqueue('{type}', recipient, payload)`.
"""
