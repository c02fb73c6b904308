"""One real stack for all acceptance tests, and one that nobody started."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from backline.demo.world import World
from tests.acceptance.running import Copy, new_copy, remove


@pytest.fixture(scope="session")
def stack() -> Iterator[Copy]:
    """A whole stack that runs."""
    copy = new_copy()
    try:
        copy.backline("up")
        yield copy
    finally:
        remove(copy)


@pytest.fixture(scope="session")
def stack_exports(stack: Copy) -> dict[str, str]:
    """The variables with which others use the running stack."""
    return stack.exports()


@pytest.fixture(scope="session")
def basics() -> Iterator[Copy]:
    """A copy that nobody has started: what the Airflow CLI needs comes up with it."""
    copy = new_copy()
    try:
        yield copy
    finally:
        remove(copy)


@pytest.fixture
def world(stack: Copy) -> Iterator[World]:
    """The running stack, with a mail server that is well."""
    with stack.world() as world:
        world.mail.set_faults()
        yield world
        world.mail.set_faults()
