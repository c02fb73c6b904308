"""Turns: first come, first served; whoever waits behind a slow holder stops waiting; a cancelled waiter loses no turn."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from backline.channels.email.turns import Turns

PATIENCE = 0.05


def in_loop(test: Callable[[Turns], Awaitable[None]], patience: float = PATIENCE) -> None:
    async def run() -> None:
        await asyncio.wait_for(_call(), 20)

    async def _call() -> None:
        await test(Turns(patience))

    asyncio.run(run())


async def waiting(turns: Turns, count: int) -> list[asyncio.Task[None]]:
    tasks = [asyncio.create_task(turns.take()) for _ in range(count)]
    await asyncio.sleep(0)
    return tasks


def test_each_waits_for_those_before_it() -> None:
    async def test(turns: Turns) -> None:
        await turns.take()
        tasks = await waiting(turns, 3)
        for number, task in enumerate(tasks):
            assert [each.done() for each in tasks] == [True] * number + [False] * (3 - number)
            turns.pass_on()
            await task
        turns.pass_on()
        await turns.take()

    in_loop(test, patience=10)


def test_behind_a_slow_holder_all_stop_waiting_and_the_turn_is_not_lost() -> None:
    async def test(turns: Turns) -> None:
        await turns.take()
        for task in await waiting(turns, 2):
            with pytest.raises(TimeoutError):
                await task
        free = asyncio.create_task(turns.wait_until_free())
        with pytest.raises(TimeoutError):  # the one that waits for longer does not end with the others
            await turns.take()
        assert not free.done()
        turns.pass_on()
        await free
        await turns.take()

    in_loop(test)


def test_holders_that_are_quick_are_waited_for_however_many_there_are() -> None:
    async def test(turns: Turns) -> None:
        until = asyncio.get_running_loop().time() + 6 * PATIENCE
        ended: list[None] = []

        async def hold_briefly() -> None:
            await turns.take()
            await asyncio.sleep(PATIENCE / 10)
            turns.pass_on()
            ended.append(None)

        tasks = [asyncio.create_task(hold_briefly()) for _ in range(60)]
        await asyncio.gather(*tasks)
        assert len(ended) == 60
        assert (
            asyncio.get_running_loop().time() > until - PATIENCE
        )  # the last ones waited for several times the patience

    in_loop(test, patience=PATIENCE)


@pytest.mark.parametrize("moment", ["while it waits", "as its turn comes"])
def test_a_cancelled_waiter_leaves_the_turn_to_the_next(moment: str) -> None:
    async def test(turns: Turns) -> None:
        await turns.take()
        first, second = await waiting(turns, 2)
        if moment == "as its turn comes":
            turns.pass_on()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        if moment == "while it waits":
            turns.pass_on()
        await second

    in_loop(test, patience=10)
