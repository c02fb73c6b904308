"""One running stack for all acceptance tests, and one that is not started."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from demo.context import DemoContext
from tests.acceptance.isolated_stack import IsolatedStack, create_stack, remove_stack


@pytest.fixture(scope="session")
def started() -> Iterator[tuple[IsolatedStack, str]]:
    """A running stack, and what its first `up` printed."""
    copy = create_stack()
    try:
        yield copy, copy.run("up").stdout
    finally:
        remove_stack(copy)


@pytest.fixture(scope="session")
def stack(started: tuple[IsolatedStack, str]) -> IsolatedStack:
    """A running stack."""
    return started[0]


@pytest.fixture(scope="session")
def stack_exports(stack: IsolatedStack) -> dict[str, str]:
    """The variables of the running stack for other programs."""
    return stack.exports()


@pytest.fixture(scope="session")
def basics() -> Iterator[IsolatedStack]:
    """A copy that is not started: the Airflow CLI starts what it needs."""
    copy = create_stack()
    try:
        yield copy
    finally:
        remove_stack(copy)


@pytest.fixture
def context(stack: IsolatedStack) -> Iterator[DemoContext]:
    """The running stack, without fault rules."""
    with stack.context() as context:
        context.mail.set_faults()
        yield context
        context.mail.set_faults()
