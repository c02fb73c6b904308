"""Rates by the recipient's domain: messages that are over are put off to the time of their token."""

from __future__ import annotations

from collections import defaultdict

from backline.outbox.store import LeasedMessage, Store
from backline.settings import LaneSettings


def domain_of(recipient: str) -> str:
    """The domain of an address, in lower case; empty when it has none."""
    _, at, domain = recipient.rpartition("@")
    return domain.rstrip("> ").lower() if at else ""


async def defer(store: Store, lane_name: str, lane: LaneSettings, messages: list[LeasedMessage]) -> list[LeasedMessage]:
    """Those of `messages` that may go now; the others go back to the outbox until their domain's token comes.

    A message is put off once: its token is reserved for it, so when it comes back it has been paid for.
    """
    limited: dict[str, list[LeasedMessage]] = defaultdict(list)
    for message in messages:
        domain = domain_of(message.recipient)
        if not message.rate_token_reserved and domain in lane.domain_rates_per_minute:
            limited[domain].append(message)
    if not limited:
        return messages
    keys = {domain: f"domain:{lane_name}:{domain}" for domain in limited}
    intervals = {domain: 60.0 / lane.domain_rates_per_minute[domain] for domain in limited}
    first = await store.reserve_rate_tokens(
        {keys[domain]: (len(wanting), intervals[domain], lane.rate_burst) for domain, wanting in limited.items()}
    )
    over = []
    for domain, wanting in limited.items():
        for place, message in enumerate(wanting):
            delay = first[keys[domain]] + place * intervals[domain]
            if delay > 0:
                over.append((message, delay))
    if over:
        await store.defer(over)
    put_aside = {message.id for message, _ in over}
    return [message for message in messages if message.id not in put_aside]
