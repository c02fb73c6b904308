"""Human approval in a job: asks people in Airflow's UI about each item of a list, and calls the library with each answer."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import task_group

from backline.airflow.jobs import job_task

if TYPE_CHECKING:
    from airflow.sdk.definitions.context import Context
    from airflow.sdk.definitions.xcom_arg import XComArg

APPROVE, REJECT = "Approve", "Reject"


class ApprovalOperator(HITLOperator):
    """Waits, without a worker, until a person approves or rejects; returns `approved` and `decided_by`."""

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """The answer, in terms that need no Airflow."""
        answer = super().execute_complete(context, event)
        user = answer.get("responded_by_user") or {}
        return {"approved": answer["chosen_options"] == [APPROVE], "decided_by": str(user.get("name") or "unknown")}


def ask_approval(requests: XComArg, decide: str, *, subject: str, timeout_hours: float) -> None:
    """Ask about each request that a task returned, and call `decide(job, request, answer)` as soon as it is answered.

    A request is a mapping; its `question`, in Markdown, is shown. Without an answer within `timeout_hours` the task fails.
    """
    source = requests.operator.task_id  # type: ignore[attr-defined]

    @task_group(group_id="approvals")
    def approve(request: Any) -> None:
        ask = ApprovalOperator(
            task_id="ask",
            doc_md="Waits until a person has answered under Required Actions.",
            subject=subject,
            body=f"{{{{ ti.xcom_pull(task_ids='{source}')[ti.map_index]['question'] }}}}",
            options=[APPROVE, REJECT],
            response_timeout=timedelta(hours=timeout_hours),
            retries=0,
        )
        job_task(decide, inputs={"request": request, "answer": cast("Any", ask.output)}, stores_result=False)

    approve.expand(request=requests)
