"""Messages that enter by SQL, inside the app's own transactions."""

from __future__ import annotations

from backline.demo.check import Check, CheckFailed, Result, require
from backline.demo.world import World
from backline.errors import InvalidInput

TRANSACTIONS = 100
PER_TRANSACTION = 10
ROLLED_BACK_EVERY = 5
"""Every fifth transaction changes its mind."""

WRONG = {
    "subject": ("email", "ann@{domain}", {"text": "No subject"}),
    "sbject": ("email", "ann@{domain}", {"subject": "Hello", "text": "Hello", "sbject": "Helo"}),
    "recipient": ("email", "ann at {domain}", {"subject": "Hello", "text": "Hello"}),
    "type": ("telegram", "ann@{domain}", {"text": "Hello"}),
}
"""Field → what enqueue must refuse because of it."""


def checks() -> list[Check]:
    """What is wrong takes its transaction down; of what is right exactly the committed arrives."""
    return [
        Check("bad SQL input aborts its transaction", _bad_input, log="postgres"),
        Check("1,000 in transactions, some undone", _transactions),
    ]


def _bad_input(world: World) -> Result:
    domain = world.domain("aborted")
    for field, (kind, recipient, payload) in WRONG.items():
        try:
            with world.transaction():
                # A good one first: it must go down with the bad one.
                world.enqueue("email", f"good@{domain}", {"subject": "Never sent", "text": "Never sent"})
                world.enqueue(kind, recipient.format(domain=domain), payload)
        except InvalidInput as exc:
            require(exc.field == field, f"the error names {exc.field!r} instead of {field!r}: {exc}")
        else:
            raise CheckFailed(f"enqueue took a message whose {field} is wrong")
    left = world.query("demo", "enqueued_to", pattern=f"%@{domain}", since=world.started)
    require(not left, f"{len(left)} messages are there of transactions that were aborted")
    return Result(f"{len(WRONG)} aborted", f"{len(WRONG)} aborted, field named")


def _transactions(world: World) -> Result:
    domain = world.domain("shop")
    committed: dict[int, str] = {}
    for number in range(TRANSACTIONS):
        world.say(f"transaction {number + 1} of {TRANSACTIONS}")
        roll_back = number % ROLLED_BACK_EVERY == ROLLED_BACK_EVERY - 1
        made: dict[int, str] = {}
        with world.transaction(roll_back=roll_back):
            for place in range(PER_TRANSACTION):
                order = number * PER_TRANSACTION + place
                recipient = f"order-{order:04}@{domain}"
                payload = {"subject": f"Order {order:04}", "text": f"Order {order:04} is on its way."}
                made[world.enqueue("email", recipient, payload)] = recipient
        if not roll_back:
            committed |= made
    world.sent |= committed
    arrived = [recipient for arrival in world.wait_arrived(domain, len(committed)) for recipient in arrival.recipients]
    missing = set(committed.values()) - set(arrived)
    surplus = set(arrived) - set(committed.values())
    require(not missing and not surplus, f"{len(missing)} did not arrive, {len(surplus)} arrived that were rolled back")
    require(len(arrived) == len(committed), f"{len(arrived) - len(committed)} arrived twice")
    rows = {
        row["id"]: row["recipient"]
        for row in world.query("demo", "enqueued_to", pattern=f"%@{domain}", since=world.started)
    }
    require(rows == committed, "the outbox holds other messages than those committed")
    rolled_back = TRANSACTIONS * PER_TRANSACTION - len(committed)
    return Result(f"{len(committed)} of 1,000", f"{len(arrived)}, none of {rolled_back}")
