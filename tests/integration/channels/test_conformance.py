"""What every channel must do, over the sandbox."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from backline.channels.base import Channel, Session
from backline.errors import InvalidInput, NetworkFailure, RateLimited, Rejected, RetryableError, TimeoutFailure
from backline.settings import CHANNELS
from tests.integration.channels.sandbox import CHANNEL_CASES, TIMEOUT, ChannelCase, Sandbox

pytestmark = pytest.mark.anyio
TEXT = "It is on its way."


@pytest.fixture(scope="module")
def sandbox_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    sandbox = Sandbox.start(tmp_path_factory.mktemp("mail") / "box")
    yield sandbox
    sandbox.stop()


@pytest.fixture(params=CHANNEL_CASES)
def case(request: pytest.FixtureRequest) -> ChannelCase:
    return CHANNEL_CASES[request.param]


@pytest.fixture
def sandbox(sandbox_process: Sandbox, case: ChannelCase) -> Sandbox:
    case.reset(sandbox_process)
    return sandbox_process


@pytest.fixture
def channel(sandbox: Sandbox, case: ChannelCase) -> Channel[Any]:
    return case.make_channel(sandbox, TEXT, TIMEOUT)


@asynccontextmanager
async def opened(channel: Channel[Any]) -> AsyncIterator[Session[Any]]:
    session = channel.session()
    try:
        yield session
    finally:
        await session.close()


def test_every_channel_is_covered() -> None:
    assert set(CHANNEL_CASES) == set(CHANNELS)


async def test_a_channel_has_its_name_and_limits(channel: Channel[Any], case: ChannelCase) -> None:
    assert channel.name == case.name
    assert channel.connections >= 1
    assert channel.messages_per_session >= 1


async def test_a_message_arrives_once_and_returns_a_receipt(
    channel: Channel[Any], sandbox: Sandbox, case: ChannelCase
) -> None:
    async with opened(channel) as session:
        receipt = await session.send(channel.prepare(case.message()))
    assert receipt.code[0] == "2"
    assert receipt.response
    assert receipt.provider_id
    assert receipt.refused_recipients == ()
    assert case.received_count(sandbox) == 1
    assert case.last_text(sandbox) == TEXT


async def test_one_session_sends_many_messages_concurrently(
    channel: Channel[Any], sandbox: Sandbox, case: ChannelCase
) -> None:
    async with opened(channel) as session:
        receipts = []
        for turn in range(5):
            numbers = range(turn * channel.messages_per_session, (turn + 1) * channel.messages_per_session)
            prepared = [channel.prepare(case.message(number=number)) for number in numbers]
            receipts += await asyncio.gather(*[session.send(one) for one in prepared])
    assert len({receipt.provider_id for receipt in receipts}) == 5 * channel.messages_per_session
    assert case.received_count(sandbox) == 5 * channel.messages_per_session


async def test_concurrent_sessions_do_not_interfere(channel: Channel[Any], sandbox: Sandbox, case: ChannelCase) -> None:
    async def one(number: int) -> str:
        async with opened(channel) as session:
            return (await session.send(channel.prepare(case.message(number=number)))).provider_id

    assert len(set(await asyncio.gather(*[one(number) for number in range(8)]))) == 8
    assert case.received_count(sandbox) == 8


async def test_retry_after_is_given_in_seconds(channel: Channel[Any], sandbox: Sandbox, case: ChannelCase) -> None:
    case.set_faults(sandbox, "busy")
    async with opened(channel) as session:
        with pytest.raises(RateLimited) as caught:
            await session.send(channel.prepare(case.message()))
        assert caught.value.retry_after == 30
        assert caught.value.code
        assert caught.value.code[:3] in {"451", "429"}
        await session.send(channel.prepare(case.message()))
    assert case.received_count(sandbox) == 1


async def test_a_refusal_is_permanent_and_affects_only_its_message(
    channel: Channel[Any], sandbox: Sandbox, case: ChannelCase
) -> None:
    case.set_faults(sandbox, "refused")
    async with opened(channel) as session:
        with pytest.raises(Rejected):
            await session.send(channel.prepare(case.message()))
        assert case.received_count(sandbox) == 0
        await session.send(channel.prepare(case.message()))
    assert case.received_count(sandbox) == 1


async def test_a_temporary_failure_is_retryable(channel: Channel[Any], sandbox: Sandbox, case: ChannelCase) -> None:
    case.set_faults(sandbox, "down")
    async with opened(channel) as session:
        with pytest.raises(RetryableError):
            await session.send(channel.prepare(case.message()))
        await session.send(channel.prepare(case.message()))
    assert case.received_count(sandbox) == 1


async def test_a_slow_receiver_is_a_timeout(sandbox: Sandbox, case: ChannelCase) -> None:
    case.set_faults(sandbox, "slow")
    hasty = case.make_channel(sandbox, TEXT, case.short_timeout)
    async with opened(hasty) as session:
        with pytest.raises(TimeoutFailure, match="outcome unknown"):
            await session.send(hasty.prepare(case.message()))
        patient = hasty.prepare(case.message(attempt=4))
        assert patient.timeout > case.faults["slow"]["seconds"]
        await session.send(patient)
    assert case.received_count(sandbox) == 2  # the first had been taken: nobody could know


async def test_a_connection_that_breaks_is_replaced(channel: Channel[Any], sandbox: Sandbox, case: ChannelCase) -> None:
    async with opened(channel) as session:
        await session.send(channel.prepare(case.message()))
        case.set_faults(sandbox, "dropped")
        with pytest.raises(NetworkFailure):
            await session.send(channel.prepare(case.message()))
        await session.send(channel.prepare(case.message()))
    assert case.received_count(sandbox) == 2


async def test_an_unknown_outcome_is_reported_and_only_repeated_if_the_receiver_deduplicates(
    channel: Channel[Any], sandbox: Sandbox, case: ChannelCase
) -> None:
    case.set_faults(sandbox, "dropped after")
    async with opened(channel) as session:
        with pytest.raises(NetworkFailure, match="outcome unknown"):
            await session.send(channel.prepare(case.message()))
    assert case.received_count(sandbox) == case.requests_per_attempt


async def test_an_unreachable_receiver_is_a_network_failure(case: ChannelCase, closed_port: int) -> None:
    unreachable = case.make_unreachable(closed_port)
    async with opened(unreachable) as session:
        for _ in range(2):
            with pytest.raises(NetworkFailure) as caught:
                await session.send(unreachable.prepare(case.message()))
            assert str(closed_port) in str(caught.value)
            assert "outcome unknown" not in str(caught.value)


async def test_an_invalid_recipient_is_named_before_anything_is_sent(
    channel: Channel[Any], sandbox: Sandbox, case: ChannelCase
) -> None:
    with pytest.raises(InvalidInput) as caught:
        channel.prepare(case.message(recipient=case.bad_recipient))
    assert caught.value.field == "to"
    assert case.received_count(sandbox) == 0


async def test_the_repr_of_a_prepared_message_hides_its_content(sandbox: Sandbox, case: ChannelCase) -> None:
    secret = case.make_channel(sandbox, "Your code is 402913", TIMEOUT)
    assert "402913" not in repr(secret.prepare(case.message()))


async def test_the_timeout_grows_with_each_attempt_up_to_a_limit(channel: Channel[Any], case: ChannelCase) -> None:
    patience = [channel.prepare(case.message(attempt=attempt)).timeout for attempt in range(1, 12)]
    assert patience == sorted(patience)
    assert patience[1] == pytest.approx(2 * patience[0], rel=0.01)
    assert patience[-1] < 700


async def test_closing_is_always_possible(channel: Channel[Any], case: ChannelCase) -> None:
    session = channel.session()
    await session.close()
    await session.send(channel.prepare(case.message()))
    await session.close()
    await session.close()
