"""The one difference that is safe to mend: the provider has the money of a payment that we still wait for.

It is booked only if, under the locks of order and payment, everything agrees to the cent and nothing is under way: same
amount and currency, the order still waiting, no other payment of it captured, no try begun lately. Everything else is
for people: to take money out of the books, or to give it back, is never done here.
"""

from __future__ import annotations

from datetime import datetime

from backline.db.connect import Session
from backline.db.statements import statement
from backline.reconciliation.discrepancies import Discrepancy


def apply_fix(connection: Session, difference: Discrepancy, grace_cutoff: datetime) -> bool:
    """Book the provider's word for a payment, its try and its order in one transaction; False if it is not safe (now)."""
    if not difference.is_safe_to_fix:
        return False
    values = {
        "payment_id": difference.payment_id,
        "reference": difference.reference,
        "amount_minor": difference.amount_minor,
        "currency": difference.currency,
        "grace_cutoff": grace_cutoff,
    }
    with connection.transaction():
        if connection.execute(statement("reconciliation", "payment_lock"), values).fetchone() is None:
            return False
        return connection.execute(statement("reconciliation", "payment_capture"), values).fetchone() is not None
