"""One message of a job, in the transaction of what it tells of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from backline.db.connect import Session, translate_errors
from backline.db.statements import statement


def enqueue(database: Session, type_name: str, to: str, payload: Mapping[str, Any], key: str) -> int:
    """One message in the caller's transaction, once for its key; its id. InvalidInput names the field that is refused."""
    values = {"type": type_name, "recipient": to, "payload": json.dumps(payload), "idempotency_key": key}
    nothing = dict.fromkeys(("due_at", "priority", "expires_at", "request_id", "lane"))
    with translate_errors():
        [row] = database.execute(statement("outbox", "enqueue"), {**values, **nothing}).fetchall()
    return int(row["id"])
