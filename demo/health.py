"""The first check and the last: all is well, and nothing is missing."""

from __future__ import annotations

from collections import Counter
from datetime import UTC

from backline.settings import settings
from demo.check import Check, Result, require, wait_until
from demo.context import DemoContext


def health_check() -> Check:
    """Every component of the stack."""
    return Check("every service is healthy", _check_health, log_name="supervisord")


def conservation_check() -> Check:
    """Everything that was accepted is accounted for."""
    return Check("conservation is exact", _check_conservation, log_name="postgres")


def _check_health(world: DemoContext) -> Result:
    found = wait_until(lambda: _healthy_count(world), "all services healthy", 60.0)
    return Result(f"{found} ok", f"{found} ok")


def _healthy_count(world: DemoContext) -> int | None:
    found = world.stack.health_checks()
    ill = [f"{check.name}: {check.detail}" for check in found if not check.ok]
    world.report_progress("; ".join(ill))
    return None if ill else len(found)


def _check_conservation(world: DemoContext) -> Result:
    states = world.count_states([*world.sent, *world.sent_by_gateway, *world.dead])
    wanted = Counter(sent=len(world.sent) + len(world.sent_by_gateway), dead=len(world.dead))
    require(states == wanted, f"the producer's list ended as {dict(states)} instead of {dict(wanted)}")
    rows = world.query(
        "demo", "message_find_by_recipient", pattern=f"%.{world.tag}.example.com", since=world.started_at
    )
    unknown = {row["id"] for row in rows} - world.sent.keys() - world.dead.keys()
    require(not unknown, f"the outbox holds {len(unknown)} messages that nobody committed")
    ledger = world.query("outbox", "ledger_conservation", since=world.started_at.astimezone(UTC).date())
    missing = sum(row["missing"] for row in ledger)
    require(missing == 0, f"the ledger misses {missing} messages: {ledger}")
    mails = Counter(
        recipient
        for arrival in world.mail.list_emails(f"*.{world.tag}.example.com", world.since)
        for recipient in arrival.recipients
    )
    wrong = set(world.sent.values()) ^ mails.keys()
    require(not wrong, f"{len(wrong)} recipients have mail and should not, or the other way round")
    twice = sum(mails.values()) - len(mails)
    bound = settings().outbox.max_unconfirmed
    require(twice <= bound, f"{twice} mails came twice; one kill allows {bound}")
    return Result(f"{wanted['sent']:,} sent, {len(world.dead)} dead", f"{states['sent']:,} sent, {states['dead']} dead")
