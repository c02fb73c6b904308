"""Functions of the jobs in `sample_jobs.py`."""

from __future__ import annotations

from typing import Any

from backline.errors import Rejected, Skipped
from backline.jobs.batch import BatchResult
from backline.jobs.job import Job


def find_chunks(job: Job[None]) -> list[dict[str, int]]:
    """As many chunks as the parameter says, of two items each."""
    return [{"first": 2 * number, "last": 2 * number + 1} for number in range(job.params.required("chunks", int))]


def process_chunk(job: Job[None], first: int, last: int) -> BatchResult:
    """Item 3 fails for good."""

    def process(item: int) -> None:
        if item == 3:
            raise Rejected("3 is broken")

    return job.run_each(range(first, last + 1), process)


def add_up(job: Job[None], chunks: list[dict[str, int]], results: list[dict[str, Any]]) -> dict[str, object]:
    """The sum of all chunks."""
    job.progress(99, "adding up")
    total = BatchResult.from_results(results)
    return {"chunks": len(chunks), "done": total.done, "failed": total.failed}


def skip(_: Job[None]) -> None:
    """Has nothing to do."""
    raise Skipped("no statement: put one into the folder")
