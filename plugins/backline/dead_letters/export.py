"""Dead letters as JSON lines or CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from datetime import datetime

from backline.dead_letters.store import Row
from backline.errors import InvalidInput
from backline.files import csv_cell

FORMATS = ("jsonl", "csv")
COLUMNS = (
    "id", "kind", "name", "message_id", "run_id", "task_id", "map_index", "item_key", "class", "cause", "attempts", "conf", "log_url",
    "failed_at", "first_seen_at", "last_seen_at", "alerted_at", "state", "reason", "closed_by", "closed_at", "replay_ref",
)  # fmt: skip


def export(rows: Iterable[Row], export_format: str) -> Iterator[str]:
    """Dead letters as lines of text; InvalidInput for the field `format` if it is neither jsonl nor csv."""
    if export_format not in FORMATS:
        raise InvalidInput("format", f"{export_format!r} is not known; use one of: {', '.join(FORMATS)}")
    if export_format == "jsonl":
        return (json.dumps(row, default=datetime.isoformat) + "\n" for row in rows)
    return _csv(rows)


def _csv(rows: Iterable[Row]) -> Iterator[str]:
    yield ",".join(COLUMNS) + "\r\n"
    for row in rows:
        text = io.StringIO()
        csv.writer(text).writerow([_cell(row[name]) for name in COLUMNS])
        yield text.getvalue()


def _cell(value: object) -> object:
    if isinstance(value, dict):
        return json.dumps(value)
    if isinstance(value, datetime):
        return value.isoformat()
    return csv_cell(value)
