"""Jobs that show what `job_dag` gives; put into a folder of DAGs by the test."""

from __future__ import annotations

from airflow.sdk import Param, task

from backline.airflow.jobs import Requires, job_dag, job_task

with job_dag("needs_connection", doc="Needs one.", requires=Requires(connections=("payment_provider",))):

    @task
    def pay() -> None:
        """Is not reached."""
        raise AssertionError

    pay()

with job_dag("needs_table", doc="Needs one.", requires=Requires(tables=("shop.no_such_table",))):

    @task
    def read() -> None:
        """Is not reached."""
        raise AssertionError

    read()

with job_dag("permanent", doc="Fails for good.", retries=3):

    @task
    def refused() -> None:
        """Raises what is never retried."""
        from backline.errors import Rejected

        raise Rejected("550 no such user")

    refused()

with job_dag("transient", doc="Fails once.", retries=3, backoff_multiplier=0.02):

    @task
    def busy(ti: object = None) -> int:
        """Fails on its first try."""
        from backline.errors import NetworkFailure

        number = int(ti.try_number)  # type: ignore[attr-defined]
        if number == 1:
            raise NetworkFailure("no route")
        return number

    busy()

with job_dag("too_long", doc="Takes too long at first.", retries=2, soft_limit_seconds=1.0, backoff_multiplier=0.02):

    @task
    def slow() -> str:
        """Needs more than its limit, and less than half as much again."""
        import time

        time.sleep(1.3)
        return "done"

    slow()

with job_dag("paced", doc="Has a rate.", rate_per_minute=40):

    @task
    def one(number: int) -> float:
        """Says when it ran."""
        import time

        return time.time() + 0 * number

    one(1) >> one(2)

with job_dag(
    "mapped",
    doc="Finds chunks, processes each in a mapped task, and adds up.",
    params={"chunks": Param(2, type="integer")},
    result_ttl_seconds=60,
):
    found = job_task("tests.integration.airflow.sample_functions:find_chunks", stores_result=False)
    processed = job_task("tests.integration.airflow.sample_functions:process_chunk", expand=found.output)
    job_task(
        "tests.integration.airflow.sample_functions:add_up",
        inputs={"chunks": found.output, "results": processed.output},
    )

with job_dag("nothing_to_do", doc="Has nothing to work on."):
    job_task("tests.integration.airflow.sample_functions:skip")

with job_dag("strict", doc="Takes no parameter."):
    job_task("tests.integration.airflow.sample_functions:skip")
