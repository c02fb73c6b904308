"""Speed: single messages on a warm lane, a large backlog, and urgent messages that overtake it."""

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
    """The checks, in order: urgent messages are sent while the backlog drains, which is checked after them."""
    return [
        Check("200 messages at 20/s on a warm lane", _check_latency),
        Check("urgent overtakes 20,000 pending", _check_urgent, _prepare_urgent_lane),
        Check("20,000 enqueued and drained", _check_drain),
    ]


def _check_latency(context: DemoContext) -> Result:
    domain = context.domain("latency")
    inserted: dict[str, float] = {}
    begin = time.monotonic()
    for number in range(LATENCY_MESSAGE_COUNT):
        context.report_progress(f"{number} of {LATENCY_MESSAGE_COUNT}")
        # Keeps the rate, however long an insert takes.
        time.sleep(max(0.0, begin + number / MESSAGES_PER_SECOND - time.monotonic()))
        recipient = f"reader-{number:04}@{domain}"
        inserted[recipient] = time.time()
        message_id = context.enqueue(
            "email", recipient, {"subject": f"Number {number}", "text": "How long did it take?"}
        )
        context.sent[message_id] = recipient
    arrived = {
        arrival.recipients[0]: arrival.arrived_at for arrival in context.wait_for_emails(domain, LATENCY_MESSAGE_COUNT)
    }
    require(arrived.keys() == inserted.keys(), f"{len(arrived)} of {LATENCY_MESSAGE_COUNT} arrived")
    # Measured from before the INSERT, so that it includes the app's commit.
    latencies = [arrived[recipient] - at for recipient, at in inserted.items()]
    return Result(f"{LATENCY_MESSAGE_COUNT}", f"{len(arrived)}", latencies)


def _prepare_urgent_lane(context: DemoContext) -> None:
    recipient = f"first@{context.domain('pager')}"
    context.sent[context.enqueue("urgent_email", recipient, _alert_payload(0))] = recipient


def _check_urgent(context: DemoContext) -> Result:
    wait_until(
        lambda: context.mail.count(f"first@{context.domain('pager')}", context.since), "the first urgent message"
    )
    bulk, domain = context.domain("bulk"), context.domain("urgent")
    context.report_progress(f"enqueueing {BULK_COUNT:,}")
    recipients = [f"reader-{number:05}@{bulk}" for number in range(BULK_COUNT)]
    payloads = ({"name": f"Reader {number:05}"} for number in range(BULK_COUNT))
    context.enqueue_many("welcome", recipients, payloads, BULK_LANE)
    context.bulk_enqueued_at = time.time()
    inserted: dict[str, float] = {}
    for number in range(1, URGENT_COUNT + 1):
        recipient = f"on-call-{number:02}@{domain}"
        inserted[recipient] = time.time()
        context.sent[context.enqueue("urgent_email", recipient, _alert_payload(number))] = recipient
        time.sleep(URGENT_INTERVAL_SECONDS)
    arrived = context.wait_for_emails(domain, URGENT_COUNT)
    last = arrived[-1].arrived_at
    wait_until(lambda: context.mail.count(f"*@{bulk}", last) or None, "the backlog that was overtaken")
    overtook = len({recipient for arrival in arrived for recipient in arrival.recipients})
    require(overtook == URGENT_COUNT, f"{overtook} of {URGENT_COUNT} arrived before the backlog")
    latencies = [arrival.arrived_at - inserted[arrival.recipients[0]] for arrival in arrived]
    return Result(f"{URGENT_COUNT} first", f"{overtook} first", latencies)


def _check_drain(context: DemoContext) -> Result:
    domain, begin = context.domain("bulk"), context.bulk_enqueued_at
    if begin is None:
        raise CheckFailed("the backlog was not enqueued; see the previous check")

    def drained() -> bool:
        found = context.mail.count("", begin)
        context.report_progress(
            f"about {found:,} of {BULK_COUNT:,} arrived, {found / (time.time() - begin):,.0f} a second"
        )
        return found >= BULK_COUNT and context.mail.count(f"*@{domain}", context.since) >= BULK_COUNT

    wait_until(drained, f"{BULK_COUNT:,} messages", DRAIN_TIMEOUT_SECONDS)
    arrivals = context.emails_at(domain)
    arrived = [recipient for arrival in arrivals for recipient in arrival.recipients]
    expected = {recipient for recipient in context.sent.values() if recipient.endswith(f"@{domain}")}
    require(set(arrived) == expected, f"{len(expected - set(arrived)):,} did not arrive")
    require(len(arrived) == BULK_COUNT, f"{len(arrived) - BULK_COUNT} arrived twice")
    seconds = arrivals[-1].arrived_at - arrivals[0].arrived_at  # excludes the start of a dispatcher
    return Result(f"{BULK_COUNT:,}", f"{len(arrived):,} at {BULK_COUNT / seconds:,.0f}/s")


def _alert_payload(number: int) -> dict[str, object]:
    return {"context": {"title": f"Alert {number}", "summary": "This needs attention now."}}
