"""Requests that Schemathesis makes from the OpenAPI document, as a viewer and as an operator: all its checks."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import from_schema
from schemathesis.engine.events import FatalError, NonFatalError, ScenarioFinished

from tests.integration.web.conftest import Api

SECONDS = [3, pytest.param(45, marks=pytest.mark.extended)]
CHECKED_FURTHER = r"/(groups/\{id\}|messages|messages/\{id\}/replay|suppressions|preferences|endpoints|endpoints/\{id\}(/replay|/rotate)?|hooks/\w+)$"
"""Paths whose values a schema cannot describe, such as an address of a channel: what it calls valid may be a 422."""
ACCEPTED = ["2xx", "3xx", 401, 403, 404, 409, 422, 429, "5xx"]


@pytest.mark.usefixtures("airflow_tables")
@pytest.mark.parametrize("seconds", SECONDS)
@pytest.mark.parametrize("role", ["viewer", "op"])
def test_answers_are_as_the_document_describes_them(open_api: Api, role: str, seconds: int) -> None:
    config = SchemathesisConfig.from_dict({
        "max-time": seconds,
        "headers": {"Authorization": f"Bearer {open_api.tokens[role]}"},
        "operations": [
            {"include-path-regex": CHECKED_FURTHER, "checks": {"positive_data_acceptance": {"expected-statuses": ACCEPTED}}}
        ],
    })  # fmt: skip
    schema = schemathesis.openapi.from_asgi("/openapi.json", open_api.app, config=config)
    count = 0
    problems: set[tuple[str, str, str, str]] = set()
    for event in from_schema(schema).execute():
        assert not isinstance(event, FatalError | NonFatalError), event
        if isinstance(event, ScenarioFinished):
            count += len(event.recorder.interactions)
            problems.update(failures(event))
    assert count > 0
    assert problems == set()


def failures(event: ScenarioFinished) -> Iterator[tuple[str, str, str, str]]:
    """Operation, check, what is wrong and the request that shows it."""
    for checks in event.recorder.checks.values():
        for check in checks:
            info = check.failure_info
            # "None" is the id in a link that Schemathesis infers from a field that is null.
            if info is not None and "/None" not in (info.code_sample or ""):
                yield event.recorder.label, check.name, info.failure.message, info.code_sample
