"""The first and the last check: every service is healthy, and every message is accounted for."""

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
    """Every accepted message is accounted for."""
    return Check("conservation is exact", _check_conservation, log_name="postgres")


def _check_health(context: DemoContext) -> Result:
    found = wait_until(lambda: _healthy_count(context), "all services healthy", 60.0)
    return Result(f"{found} ok", f"{found} ok")


def _healthy_count(context: DemoContext) -> int | None:
    found = context.stack.health_checks()
    problems = [f"{check.name}: {check.detail}" for check in found if not check.ok]
    context.report_progress("; ".join(problems))
    return None if problems else len(found)


def _check_conservation(context: DemoContext) -> Result:
    states = context.count_states([*context.sent, *context.sent_by_gateway, *context.dead])
    expected = Counter(sent=len(context.sent) + len(context.sent_by_gateway), dead=len(context.dead))
    require(states == expected, f"the producer's messages ended as {dict(states)} instead of {dict(expected)}")
    rows = context.query(
        "demo", "message_find_by_recipient", pattern=f"%.{context.tag}.example.com", since=context.started_at
    )
    unknown = {row["id"] for row in rows} - context.sent.keys() - context.dead.keys()
    require(not unknown, f"the outbox has {len(unknown)} messages that were not committed")
    ledger = context.query("outbox", "ledger_conservation", since=context.started_at.astimezone(UTC).date())
    missing = sum(row["missing"] for row in ledger)
    require(missing == 0, f"{missing} messages of the ledger are missing: {ledger}")
    emails = Counter(
        recipient
        for arrival in context.mail.list_emails(f"*.{context.tag}.example.com", context.since)
        for recipient in arrival.recipients
    )
    wrong = set(context.sent.values()) ^ emails.keys()
    require(not wrong, f"{len(wrong)} recipients have an unexpected email or lack one")
    duplicates = sum(emails.values()) - len(emails)
    bound = settings().outbox.max_unconfirmed
    require(duplicates <= bound, f"{duplicates} emails arrived twice; one kill allows {bound}")
    sent, dead = expected["sent"], len(context.dead)
    return Result(f"{sent:,} sent, {dead} dead", f"{states['sent']:,} sent, {states['dead']} dead")
