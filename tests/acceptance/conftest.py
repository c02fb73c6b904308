"""One real stack for all acceptance tests, and one that nobody started."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from demo.context import DemoContext
from tests.acceptance.isolated_stack import IsolatedStack, create_stack, remove_stack


@pytest.fixture(scope="session")
def stack() -> Iterator[IsolatedStack]:
    """A whole stack that runs."""
    copy = create_stack()
    try:
        copy.run("up")
        yield copy
    finally:
        remove_stack(copy)


@pytest.fixture(scope="session")
def stack_exports(stack: IsolatedStack) -> dict[str, str]:
    """The variables with which others use the running stack."""
    return stack.exports()


@pytest.fixture(scope="session")
def basics() -> Iterator[IsolatedStack]:
    """A copy that nobody has started: what the Airflow CLI needs comes up with it."""
    copy = create_stack()
    try:
        yield copy
    finally:
        remove_stack(copy)


@pytest.fixture
def context(stack: IsolatedStack) -> Iterator[DemoContext]:
    """The running stack, with a mail server that is well."""
    with stack.context() as context:
        context.mail.set_faults()
        yield context
        context.mail.set_faults()
