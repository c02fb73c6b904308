"""One webhook endpoint that fails does not keep the others waiting.

Each try for an endpoint that hangs holds one of the lane's deliveries until its time-out. So of the messages for one that
has failed for a while, one at a time is tried; the others go back to the outbox for a moment.
"""

from __future__ import annotations

import random
from collections.abc import Iterable

from backline.outbox.store import LeasedMessage, Store

CHANNEL = "webhook"
HOLD_BACK_SECONDS = (15.0, 45.0)
"""How long the others wait, at random between these: they come back a few at a time."""


async def hold_back_failing_endpoints(
    store: Store, messages: list[LeasedMessage], in_hand: Iterable[LeasedMessage]
) -> list[LeasedMessage]:
    """Those of a claimed batch that may go now; `held` are those already in hand."""
    if not messages:
        return messages
    failing = await store.failing_endpoints({message.recipient for message in messages})
    if not failing:
        return messages
    taken = {message.recipient for message in in_hand}
    admitted, waiting = [], []
    for message in messages:
        if message.recipient in failing and message.recipient in taken:
            waiting.append((message, random.uniform(*HOLD_BACK_SECONDS)))  # noqa: S311 - no secret
        else:
            taken.add(message.recipient)
            admitted.append(message)
    if waiting:
        await store.defer(waiting)
    return admitted
