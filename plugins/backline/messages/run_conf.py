"""A DAG run's conf: recipient, payload and options in one flat object, as Airflow's trigger form creates it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from backline.errors import InvalidInput
from backline.messages.base import RESERVED_KEYS, MessageType
from backline.messages.fields import parse_timestamp

MAX_REQUEST_ID_LENGTH = 200


@dataclass(frozen=True, slots=True)
class Options:
    """What a conf may have besides recipient and payload."""

    request_id: str | None = None
    expires_at: datetime | None = None
    priority: int | None = None


def split_conf(kind: type[MessageType], conf: Mapping[str, object]) -> tuple[str, dict[str, Any], Options]:
    """`to`, payload, options of a conf; an optional null counts as omitted, as in Airflow's form. InvalidInput for a key."""
    if unknown := sorted(set(conf) - set(kind.model_fields) - RESERVED_KEYS):
        known = ", ".join(("to", *kind.model_fields, "request_id", "expires_at", "priority"))
        raise InvalidInput(str(unknown[0]), f"is not a field of {kind.type_name}; known fields: {known}")
    payload = {
        name: conf[name]
        for name, field in kind.model_fields.items()
        if name in conf and (conf[name] is not None or field.is_required())
    }
    options = Options(
        _request_id(conf.get("request_id")), _expires_at(conf.get("expires_at")), _priority(conf.get("priority"))
    )
    return kind.check_recipient(conf.get("to")), payload, options


def _request_id(value: object) -> str | None:
    if value is None or (isinstance(value, str) and 1 <= len(value) <= MAX_REQUEST_ID_LENGTH and value.isprintable()):
        return value
    raise InvalidInput("request_id", f"must be one line of 1 to {MAX_REQUEST_ID_LENGTH} characters")


def _expires_at(value: object) -> datetime | None:
    try:
        return None if value is None else parse_timestamp(value.isoformat() if isinstance(value, datetime) else value)
    except ValueError as exc:
        raise InvalidInput("expires_at", str(exc)) from None


def _priority(value: object) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 10):
        return value
    raise InvalidInput("priority", "must be a whole number from 1 (least) to 10 (most urgent)")
