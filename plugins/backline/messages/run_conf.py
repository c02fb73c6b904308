"""A DAG run's conf: recipient, payload and options in one flat object, as Airflow's trigger form creates it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from backline.errors import InvalidInput
from backline.messages import registry
from backline.messages.base import RESERVED_KEYS, MessageType
from backline.messages.fields import parse_timestamp
from backline.messages.secrets import is_plaintext, refuse_plaintext_secrets

MAX_REQUEST_ID_LENGTH = 200
MAX_KEY_LENGTH = 40
"""Characters of an unknown key that an error repeats."""
REDACTED = "[removed]"


DAG_PREFIX = "send_"
"""The DAG of the type `welcome` is `send_welcome`."""


def type_of_dag(dag_id: str) -> type[MessageType] | None:
    """The message type that a DAG sends, or None for any other DAG."""
    return registry.find(dag_id.removeprefix(DAG_PREFIX)) if dag_id.startswith(DAG_PREFIX) else None


@dataclass(frozen=True, slots=True)
class Options:
    """What a conf may have besides recipient and payload."""

    request_id: str | None = None
    expires_at: datetime | None = None
    priority: int | None = None


def split_conf(kind: type[MessageType], conf: Mapping[str, object]) -> tuple[str, dict[str, Any], Options]:
    """`to`, payload, options of a conf; an optional null counts as omitted, as in Airflow's form. InvalidInput for a key."""
    _check_keys(kind, conf)
    payload = {
        name: conf[name]
        for name, field in kind.model_fields.items()
        if name in conf and (conf[name] is not None or field.is_required())
    }
    options = Options(
        _request_id(conf.get("request_id")), _expires_at(conf.get("expires_at")), _priority(conf.get("priority"))
    )
    return kind.check_recipient(conf.get("to")), payload, options


def check_before_storing(kind: type[MessageType], conf: Mapping[str, object]) -> None:
    """Refuse what must not even be stored: unknown keys, which may hold a misspelt field's secret, and plaintext secrets.

    InvalidInput names the key; all other checks are the run's.
    """
    _check_keys(kind, conf)
    refuse_plaintext_secrets(kind, conf)


def redact_conf(kind: type[MessageType], conf: Mapping[str, object]) -> dict[str, object]:
    """The conf without what `check_before_storing` refuses: Airflow's own command line stores it all the same."""
    secrets = {name for name in kind.secret_fields if is_plaintext(conf.get(name))}
    known = RESERVED_KEYS | set(kind.model_fields)
    return {name: value if name in known - secrets else REDACTED for name, value in conf.items()}


def _check_keys(kind: type[MessageType], conf: Mapping[str, object]) -> None:
    if unknown := sorted(set(conf) - set(kind.model_fields) - RESERVED_KEYS):
        known = ", ".join(("to", *kind.model_fields, "request_id", "expires_at", "priority"))
        raise InvalidInput(
            str(unknown[0])[:MAX_KEY_LENGTH], f"is not a field of {kind.type_name}; known fields: {known}"
        )


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
