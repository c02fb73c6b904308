"""How fast: one by one on a warm lane, thousands at once, and urgent ones past them."""

from __future__ import annotations

import time

from demo.check import Check, CheckFailed, Result, require, wait_until
from demo.context import DemoContext

LATENCY_MESSAGE_COUNT = 200
MESSAGES_PER_SECOND = 20
BULK_COUNT = 20_000
BULK_LANE = "email.bulk"
URGENT_COUNT = 20
URGENT_INTERVAL_SECONDS = 0.05
DRAIN_TIMEOUT_SECONDS = 300.0


def checks() -> list[Check]:
    """In this order: the urgent ones are sent while the bulk drains, and the drain is judged after them."""
    return [
        Check("200 messages at 20/s on a warm lane", _check_latency),
        Check("urgent overtakes 20,000 that wait", _check_urgent, _prepare_urgent_lane),
        Check("20,000 enqueued and drained", _check_drain),
    ]


def _check_latency(world: DemoContext) -> Result:
    domain = world.domain("latency")
    inserted: dict[str, float] = {}
    begin = time.monotonic()
    for number in range(LATENCY_MESSAGE_COUNT):
        world.report_progress(f"{number} of {LATENCY_MESSAGE_COUNT}")
        # Keeps the pace, whatever one insert took.
        time.sleep(max(0.0, begin + number / MESSAGES_PER_SECOND - time.monotonic()))
        recipient = f"reader-{number:04}@{domain}"
        inserted[recipient] = time.time()
        message_id = world.enqueue("email", recipient, {"subject": f"Number {number}", "text": "How long did it take?"})
        world.sent[message_id] = recipient
    arrived = {
        arrival.recipients[0]: arrival.arrived_at for arrival in world.wait_for_emails(domain, LATENCY_MESSAGE_COUNT)
    }
    require(arrived.keys() == inserted.keys(), f"{len(arrived)} of {LATENCY_MESSAGE_COUNT} arrived")
    # From before the INSERT, so the app's own commit is part of it.
    latencies = [arrived[recipient] - at for recipient, at in inserted.items()]
    return Result(f"{LATENCY_MESSAGE_COUNT}", f"{len(arrived)}", latencies)


def _prepare_urgent_lane(world: DemoContext) -> None:
    recipient = f"first@{world.domain('pager')}"
    world.sent[world.enqueue("urgent_email", recipient, _alert_payload(0))] = recipient


def _check_urgent(world: DemoContext) -> Result:
    wait_until(lambda: world.mail.count(f"first@{world.domain('pager')}", world.since), "the first urgent message")
    bulk, domain = world.domain("bulk"), world.domain("urgent")
    world.report_progress(f"enqueueing {BULK_COUNT:,}")
    recipients = [f"reader-{number:05}@{bulk}" for number in range(BULK_COUNT)]
    payloads = ({"name": f"Reader {number:05}"} for number in range(BULK_COUNT))
    world.enqueue_many("welcome", recipients, payloads, BULK_LANE)
    world.bulk_enqueued_at = time.time()
    inserted: dict[str, float] = {}
    for number in range(1, URGENT_COUNT + 1):
        recipient = f"on-call-{number:02}@{domain}"
        inserted[recipient] = time.time()
        world.sent[world.enqueue("urgent_email", recipient, _alert_payload(number))] = recipient
        time.sleep(URGENT_INTERVAL_SECONDS)
    arrived = world.wait_for_emails(domain, URGENT_COUNT)
    last = arrived[-1].arrived_at
    wait_until(lambda: world.mail.count(f"*@{bulk}", last) or None, "the bulk that the urgent ones overtook")
    overtook = len({recipient for arrival in arrived for recipient in arrival.recipients})
    require(overtook == URGENT_COUNT, f"{overtook} of {URGENT_COUNT} arrived before the bulk did")
    latencies = [arrival.arrived_at - inserted[arrival.recipients[0]] for arrival in arrived]
    return Result(f"{URGENT_COUNT} first", f"{overtook} first", latencies)


def _check_drain(world: DemoContext) -> Result:
    domain, begin = world.domain("bulk"), world.bulk_enqueued_at
    if begin is None:
        raise CheckFailed("the bulk was not enqueued; see the check before")

    def drained() -> bool:
        found = world.mail.count("", begin)
        world.report_progress(
            f"about {found:,} of {BULK_COUNT:,} arrived, {found / (time.time() - begin):,.0f} a second"
        )
        return found >= BULK_COUNT and world.mail.count(f"*@{domain}", world.since) >= BULK_COUNT

    wait_until(drained, f"{BULK_COUNT:,} messages", DRAIN_TIMEOUT_SECONDS)
    arrivals = world.emails_at(domain)
    arrived = [recipient for arrival in arrivals for recipient in arrival.recipients]
    wanted = {recipient for recipient in world.sent.values() if recipient.endswith(f"@{domain}")}
    require(set(arrived) == wanted, f"{len(wanted - set(arrived)):,} did not arrive")
    require(len(arrived) == BULK_COUNT, f"{len(arrived) - BULK_COUNT} arrived twice")
    seconds = arrivals[-1].arrived_at - arrivals[0].arrived_at  # without the start of a dispatcher
    return Result(f"{BULK_COUNT:,}", f"{len(arrived):,} at {BULK_COUNT / seconds:,.0f}/s")


def _alert_payload(number: int) -> dict[str, object]:
    return {"context": {"title": f"Alert {number}", "summary": "Somebody should look at this now."}}
