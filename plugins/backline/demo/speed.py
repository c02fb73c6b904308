"""How fast: one by one on a warm lane, thousands at once, and urgent ones past them."""

from __future__ import annotations

import time

from backline.demo.check import Check, CheckFailed, Result, require, until
from backline.demo.world import World

LATENCY_MESSAGES = 200
PER_SECOND = 20
BULK = 20_000
BULK_LANE = "email.bulk"
URGENT = 20
URGENT_PAUSE_SECONDS = 0.05
DRAIN_PATIENCE_SECONDS = 300.0


def checks() -> list[Check]:
    """In this order: the urgent ones are sent while the bulk drains, and the drain is judged after them."""
    return [
        Check("200 messages at 20/s on a warm lane", _latency),
        Check("urgent overtakes 20,000 that wait", _urgent, _warm_urgent),
        Check("20,000 enqueued and drained", _drained),
    ]


def _latency(world: World) -> Result:
    domain = world.domain("latency")
    inserted: dict[str, float] = {}
    begin = time.monotonic()
    for number in range(LATENCY_MESSAGES):
        world.say(f"{number} of {LATENCY_MESSAGES}")
        # Keeps the pace, whatever one insert took.
        time.sleep(max(0.0, begin + number / PER_SECOND - time.monotonic()))
        recipient = f"reader-{number:04}@{domain}"
        inserted[recipient] = time.time()
        message_id = world.enqueue("email", recipient, {"subject": f"Number {number}", "text": "How long did it take?"})
        world.sent[message_id] = recipient
    arrived = {arrival.recipients[0]: arrival.at for arrival in world.wait_arrived(domain, LATENCY_MESSAGES)}
    require(arrived.keys() == inserted.keys(), f"{len(arrived)} of {LATENCY_MESSAGES} arrived")
    # From before the INSERT, so the app's own commit is part of it.
    latencies = [arrived[recipient] - at for recipient, at in inserted.items()]
    return Result(f"{LATENCY_MESSAGES}", f"{len(arrived)}", latencies)


def _warm_urgent(world: World) -> None:
    recipient = f"first@{world.domain('pager')}"
    world.sent[world.enqueue("urgent_email", recipient, _alert(0))] = recipient


def _urgent(world: World) -> Result:
    until(lambda: world.mail.count(f"first@{world.domain('pager')}", world.since), "the first urgent message")
    bulk, domain = world.domain("bulk"), world.domain("urgent")
    world.say(f"enqueueing {BULK:,}")
    recipients = [f"reader-{number:05}@{bulk}" for number in range(BULK)]
    payloads = ({"name": f"Reader {number:05}"} for number in range(BULK))
    world.enqueue_many("welcome", recipients, payloads, BULK_LANE)
    world.bulk_at = time.time()
    inserted: dict[str, float] = {}
    for number in range(1, URGENT + 1):
        recipient = f"on-call-{number:02}@{domain}"
        inserted[recipient] = time.time()
        world.sent[world.enqueue("urgent_email", recipient, _alert(number))] = recipient
        time.sleep(URGENT_PAUSE_SECONDS)
    arrived = world.wait_arrived(domain, URGENT)
    last = arrived[-1].at
    until(lambda: world.mail.count(f"*@{bulk}", last) or None, "the bulk that the urgent ones overtook")
    overtook = len({recipient for arrival in arrived for recipient in arrival.recipients})
    require(overtook == URGENT, f"{overtook} of {URGENT} arrived before the bulk did")
    latencies = [arrival.at - inserted[arrival.recipients[0]] for arrival in arrived]
    return Result(f"{URGENT} first", f"{overtook} first", latencies)


def _drained(world: World) -> Result:
    domain, begin = world.domain("bulk"), world.bulk_at
    if begin is None:
        raise CheckFailed("the bulk was not enqueued; see the check before")

    def drained() -> bool:
        found = world.mail.count("", begin)
        world.say(f"about {found:,} of {BULK:,} arrived, {found / (time.time() - begin):,.0f} a second")
        return found >= BULK and world.mail.count(f"*@{domain}", world.since) >= BULK

    until(drained, f"{BULK:,} messages", DRAIN_PATIENCE_SECONDS)
    arrivals = world.arrivals(domain)
    arrived = [recipient for arrival in arrivals for recipient in arrival.recipients]
    wanted = {recipient for recipient in world.sent.values() if recipient.endswith(f"@{domain}")}
    require(set(arrived) == wanted, f"{len(wanted - set(arrived)):,} did not arrive")
    require(len(arrived) == BULK, f"{len(arrived) - BULK} arrived twice")
    seconds = arrivals[-1].at - arrivals[0].at  # without the start of a dispatcher
    return Result(f"{BULK:,}", f"{len(arrived):,} at {BULK / seconds:,.0f}/s")


def _alert(number: int) -> dict[str, object]:
    return {"context": {"title": f"Alert {number}", "summary": "Somebody should look at this now."}}
