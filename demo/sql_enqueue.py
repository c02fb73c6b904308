"""Messages that enter by SQL, inside the app's own transactions."""

from __future__ import annotations

from backline.errors import InvalidInput
from demo.check import Check, CheckFailed, Result, require
from demo.context import DemoContext

TRANSACTION_COUNT = 100
MESSAGES_PER_TRANSACTION = 10
ROLLBACK_EVERY = 5
"""Every fifth transaction changes its mind."""

INVALID_MESSAGES = {
    "subject": ("email", "ann@{domain}", {"text": "No subject"}),
    "sbject": ("email", "ann@{domain}", {"subject": "Hello", "text": "Hello", "sbject": "Helo"}),
    "recipient": ("email", "ann at {domain}", {"subject": "Hello", "text": "Hello"}),
    "type": ("telegram", "ann@{domain}", {"text": "Hello"}),
}
"""Field → what enqueue must refuse because of it."""


def checks() -> list[Check]:
    """What is wrong takes its transaction down; of what is right exactly the committed arrives."""
    return [
        Check("bad SQL input aborts its transaction", _check_invalid_input, log_name="postgres"),
        Check("1,000 in transactions, some undone", _check_transactions),
    ]


def _check_invalid_input(world: DemoContext) -> Result:
    domain = world.domain("aborted")
    for field, (kind, recipient, payload) in INVALID_MESSAGES.items():
        try:
            with world.transaction():
                # A good one first: it must go down with the bad one.
                world.enqueue("email", f"good@{domain}", {"subject": "Never sent", "text": "Never sent"})
                world.enqueue(kind, recipient.format(domain=domain), payload)
        except InvalidInput as exc:
            require(exc.field == field, f"the error names {exc.field!r} instead of {field!r}: {exc}")
        else:
            raise CheckFailed(f"enqueue took a message whose {field} is wrong")
    left = world.query("demo", "message_find_by_recipient", pattern=f"%@{domain}", since=world.started_at)
    require(not left, f"{len(left)} messages are there of transactions that were aborted")
    return Result(f"{len(INVALID_MESSAGES)} aborted", f"{len(INVALID_MESSAGES)} aborted, field named")


def _check_transactions(world: DemoContext) -> Result:
    domain = world.domain("shop")
    committed: dict[int, str] = {}
    for number in range(TRANSACTION_COUNT):
        world.report_progress(f"transaction {number + 1} of {TRANSACTION_COUNT}")
        roll_back = number % ROLLBACK_EVERY == ROLLBACK_EVERY - 1
        made: dict[int, str] = {}
        with world.transaction(roll_back=roll_back):
            for place in range(MESSAGES_PER_TRANSACTION):
                order = number * MESSAGES_PER_TRANSACTION + place
                recipient = f"order-{order:04}@{domain}"
                payload = {"subject": f"Order {order:04}", "text": f"Order {order:04} is on its way."}
                made[world.enqueue("email", recipient, payload)] = recipient
        if not roll_back:
            committed |= made
    world.sent |= committed
    arrived = [
        recipient for arrival in world.wait_for_emails(domain, len(committed)) for recipient in arrival.recipients
    ]
    missing = set(committed.values()) - set(arrived)
    surplus = set(arrived) - set(committed.values())
    require(not missing and not surplus, f"{len(missing)} did not arrive, {len(surplus)} arrived that were rolled back")
    require(len(arrived) == len(committed), f"{len(arrived) - len(committed)} arrived twice")
    rows = {
        row["id"]: row["recipient"]
        for row in world.query("demo", "message_find_by_recipient", pattern=f"%@{domain}", since=world.started_at)
    }
    require(rows == committed, "the outbox holds other messages than those committed")
    rolled_back = TRANSACTION_COUNT * MESSAGES_PER_TRANSACTION - len(committed)
    return Result(f"{len(committed)} of 1,000", f"{len(arrived)}, none of {rolled_back}")
