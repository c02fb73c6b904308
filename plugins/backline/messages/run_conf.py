"""A DAG run's conf: recipient, payload and options in one flat object, as Airflow's trigger form creates it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from backline.errors import InvalidInput
from backline.messages.base import MessageType

MAX_REQUEST_ID_LENGTH = 200


@dataclass(frozen=True, slots=True)
class Options:
    """What a conf may have besides recipient and payload."""

    request_id: str | None = None
    expires_at: datetime | None = None
    priority: int | None = None


def split_conf(kind: type[MessageType], conf: Mapping[str, Any]) -> tuple[str, dict[str, Any], Options]:
    """Recipient (`to`), payload and options of a conf; InvalidInput names an invalid key.

    A key that is null and not required counts as omitted, as in Airflow's trigger form. Only the payload's keys are checked:
    `kind.parse` checks its values.
    """
    if unknown := sorted(set(conf) - set(kind.model_fields) - {"to", "request_id", "expires_at", "priority"}):
        known = ", ".join(("to", *kind.model_fields, "request_id", "expires_at", "priority"))
        raise InvalidInput(str(unknown[0]), f"is not a field of {kind.type_name}; known fields: {known}")
    payload = {
        name: conf[name]
        for name, field in kind.model_fields.items()
        if name in conf and (conf[name] is not None or field.is_required())
    }
    return (
        kind.check_recipient(conf.get("to")),
        payload,
        Options(
            _request_id(conf.get("request_id")), _expires_at(conf.get("expires_at")), _priority(conf.get("priority"))
        ),
    )


def _request_id(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_REQUEST_ID_LENGTH or not value.isprintable():
        raise InvalidInput("request_id", f"must be one line of 1 to {MAX_REQUEST_ID_LENGTH} characters")
    return value


def _expires_at(value: object) -> datetime | None:
    if value is None or isinstance(value, datetime):
        moment = value
    else:
        try:
            moment = datetime.fromisoformat(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            raise InvalidInput("expires_at", 'must be a time like "2030-01-31T12:00:00Z" (RFC 3339)') from None
    if moment is not None and moment.tzinfo is None:
        raise InvalidInput("expires_at", 'needs a time zone: add "Z" or an offset like "+02:00"')
    return moment


def _priority(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 10:
        raise InvalidInput("priority", "must be a whole number from 1 (least) to 10 (most urgent)")
    return value
