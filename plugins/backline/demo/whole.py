"""The first check and the last: all is well, and nothing is missing."""

from __future__ import annotations

from collections import Counter
from datetime import UTC

from backline.demo.check import Check, Result, require, until
from backline.demo.world import World
from backline.settings import settings


def healthy() -> Check:
    """Every component of the stack."""
    return Check("every service is healthy", _healthy, log="supervisord")


def conserved() -> Check:
    """Everything that was accepted is accounted for."""
    return Check("conservation is exact", _conserved, log="postgres")


def _healthy(world: World) -> Result:
    found = until(lambda: _all_well(world), "all services healthy", 60.0)
    return Result(f"{found} ok", f"{found} ok")


def _all_well(world: World) -> int | None:
    found = world.stack.checks()
    ill = [f"{check.name}: {check.detail}" for check in found if not check.ok]
    world.say("; ".join(ill))
    return None if ill else len(found)


def _conserved(world: World) -> Result:
    states = world.states([*world.sent, *world.beyond_mail, *world.dead])
    wanted = Counter(sent=len(world.sent) + len(world.beyond_mail), dead=len(world.dead))
    require(states == wanted, f"the producer's list ended as {dict(states)} instead of {dict(wanted)}")
    rows = world.query("demo", "enqueued_to", pattern=f"%.{world.tag}.example.com", since=world.started)
    unknown = {row["id"] for row in rows} - world.sent.keys() - world.dead.keys()
    require(not unknown, f"the outbox holds {len(unknown)} messages that nobody committed")
    ledger = world.query("outbox", "ledger_conservation", since=world.started.astimezone(UTC).date())
    missing = sum(row["missing"] for row in ledger)
    require(missing == 0, f"the ledger misses {missing} messages: {ledger}")
    mails = Counter(
        recipient
        for arrival in world.mail.arrivals(f"*.{world.tag}.example.com", world.since)
        for recipient in arrival.recipients
    )
    wrong = set(world.sent.values()) ^ mails.keys()
    require(not wrong, f"{len(wrong)} recipients have mail and should not, or the other way round")
    twice = sum(mails.values()) - len(mails)
    bound = settings().outbox.max_unconfirmed
    require(twice <= bound, f"{twice} mails came twice; one kill allows {bound}")
    return Result(f"{wanted['sent']:,} sent, {len(world.dead)} dead", f"{states['sent']:,} sent, {states['dead']} dead")
