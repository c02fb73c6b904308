"""Dead letters of single items of a job: one row for each item, however often it fails."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backline.db.connect import Session
from backline.db.statements import statement
from backline.dead_letters.failures import classify, format_cause


@dataclass(frozen=True, slots=True)
class ItemDeadLetters:
    """The dead letters of one job's items, written for one of its runs."""

    database: Session
    job: str
    run_id: str
    conf: Mapping[str, Any]

    def open_items(self) -> dict[str, str]:
        """Fingerprint by key of the items that have an open dead letter."""
        rows = self.database.execute(statement("dead_letters", "item_list_open"), {"job": self.job}).fetchall()
        return {row["item_key"]: row["item_fingerprint"] for row in rows}

    def record_item(self, key: str, fingerprint: str, error: BaseException) -> None:
        """Record that an item failed permanently."""
        values = {
            "job": self.job, "item_key": key, "item_fingerprint": fingerprint, "run_id": self.run_id,
            "class": classify(error), "cause": format_cause(error), "conf": json.dumps(dict(self.conf)),
        }  # fmt: skip
        self.database.execute(statement("dead_letters", "item_record"), values)

    def resolve_item(self, key: str) -> None:
        """Close the dead letter of an item that has succeeded."""
        self.database.execute(statement("dead_letters", "item_resolve"), {"job": self.job, "item_key": key})
