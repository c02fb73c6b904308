"""Messages enqueued by SQL in the app's own transactions."""

from __future__ import annotations

from backline.errors import InvalidInput
from demo.check import Check, CheckFailed, Result, require
from demo.context import DemoContext

TRANSACTION_COUNT = 100
MESSAGES_PER_TRANSACTION = 10
ROLLBACK_EVERY = 5
"""Every fifth transaction is rolled back."""

INVALID_MESSAGES = {
    "subject": ("email", "ann@{domain}", {"text": "No subject"}),
    "sbject": ("email", "ann@{domain}", {"subject": "Hello", "text": "Hello", "sbject": "Helo"}),
    "recipient": ("email", "ann at {domain}", {"subject": "Hello", "text": "Hello"}),
    "type": ("telegram", "ann@{domain}", {"text": "Hello"}),
}
"""Field → a message that enqueue must reject because of it."""


def checks() -> list[Check]:
    """Invalid input aborts its transaction; exactly the committed messages arrive."""
    return [
        Check("invalid input aborts its transaction", _check_invalid_input, log_name="postgres"),
        Check("1,000 by SQL, some rolled back", _check_transactions),
    ]


def _check_invalid_input(context: DemoContext) -> Result:
    domain = context.domain("aborted")
    for field, (kind, recipient, payload) in INVALID_MESSAGES.items():
        try:
            with context.transaction():
                # The valid one must be rolled back with the invalid one.
                context.enqueue("email", f"good@{domain}", {"subject": "Never sent", "text": "Never sent"})
                context.enqueue(kind, recipient.format(domain=domain), payload)
        except InvalidInput as exc:
            require(exc.field == field, f"the error names {exc.field!r} instead of {field!r}: {exc}")
        else:
            raise CheckFailed(f"enqueue accepted a message with an invalid {field}")
    left = context.query("demo", "message_find_by_recipient", pattern=f"%@{domain}", since=context.started_at)
    require(not left, f"{len(left)} messages of aborted transactions are in the outbox")
    return Result(f"{len(INVALID_MESSAGES)} aborted", f"{len(INVALID_MESSAGES)} aborted, field named")


def _check_transactions(context: DemoContext) -> Result:
    domain = context.domain("shop")
    committed: dict[int, str] = {}
    for number in range(TRANSACTION_COUNT):
        context.report_progress(f"transaction {number + 1} of {TRANSACTION_COUNT}")
        roll_back = number % ROLLBACK_EVERY == ROLLBACK_EVERY - 1
        enqueued: dict[int, str] = {}
        with context.transaction(roll_back=roll_back):
            for index in range(MESSAGES_PER_TRANSACTION):
                order = number * MESSAGES_PER_TRANSACTION + index
                recipient = f"order-{order:04}@{domain}"
                payload = {"subject": f"Order {order:04}", "text": f"Order {order:04} is on its way."}
                enqueued[context.enqueue("email", recipient, payload)] = recipient
        if not roll_back:
            committed |= enqueued
    context.sent |= committed
    arrived = [
        recipient for arrival in context.wait_for_emails(domain, len(committed)) for recipient in arrival.recipients
    ]
    missing = set(committed.values()) - set(arrived)
    surplus = set(arrived) - set(committed.values())
    require(not missing and not surplus, f"{len(missing)} did not arrive, {len(surplus)} rolled back ones arrived")
    require(len(arrived) == len(committed), f"{len(arrived) - len(committed)} arrived twice")
    rows = {
        row["id"]: row["recipient"]
        for row in context.query("demo", "message_find_by_recipient", pattern=f"%@{domain}", since=context.started_at)
    }
    require(rows == committed, "the messages in the outbox differ from those committed")
    rolled_back = TRANSACTION_COUNT * MESSAGES_PER_TRANSACTION - len(committed)
    return Result(f"{len(committed)} of 1,000", f"{len(arrived)}, none of {rolled_back}")
