"""Manages endpoints. Each action runs in the caller's transaction and writes its entry of the audit trail there.

A secret is returned once, by the action that creates it; afterwards it is used only for signing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from psycopg.rows import DictRow

from backline.audit_trail import Actor, record
from backline.channels.webhook.signatures import SCHEMES, Scheme, new_secret, public_key
from backline.db.connect import Session
from backline.db.statements import statement
from backline.encryption import Encryptor
from backline.errors import InvalidInput, PermanentError
from backline.webhooks.settings import WebhookSettings
from backline.webhooks.validation import check_description, check_event_types, check_url

Connection = Session
ALL_EVENT_TYPES = ("*",)
MAX_OVERLAP_SECONDS = 30 * 86_400


class EndpointNotFound(PermanentError):
    """There is no endpoint of that id: it never existed, or it was deleted."""


class InvalidEndpointState(PermanentError):
    """The endpoint's state does not allow the action."""


@dataclass(frozen=True, slots=True)
class Secret:
    """A secret in use, without its secret part."""

    scheme: Scheme
    public_key: str | None
    """Of v1a: the receiver verifies signatures with it."""
    created_at: datetime
    expires_at: datetime | None
    """When it stops signing; None: it is the current one."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One endpoint."""

    id: str
    url: str
    description: str
    event_types: tuple[str, ...]
    """Event types that it subscribes to: "order.paid", "order.*" for a group of types, or "*" for all."""
    state: str
    disabled_reason: str | None
    disabled_at: datetime | None
    failing_since: datetime | None
    """Its first failure since the last delivered event; None: it is not failing."""
    last_error: str | None
    created_at: datetime
    secrets: tuple[Secret, ...]


@dataclass(frozen=True, slots=True, repr=False)
class EndpointWithSecret:
    """An endpoint with its new secret."""

    endpoint: Endpoint
    secret: str | None
    """It is not shown again. None for v1a: the receiver needs only the public key."""


def list_endpoints(connection: Connection) -> list[Endpoint]:
    """All endpoints, oldest first."""
    rows = connection.execute(statement("webhooks", "endpoint_list")).fetchall()
    return _load_secrets(connection, rows)


def get_endpoint(connection: Connection, endpoint_id: str) -> Endpoint:
    """One endpoint; EndpointNotFound."""
    row = connection.execute(statement("webhooks", "endpoint_get"), {"id": endpoint_id}).fetchone()
    if row is None:
        raise EndpointNotFound(
            f"there is no webhook endpoint {endpoint_id[:40]!r}: it never existed, or it was deleted"
        )
    return _load_secrets(connection, [row])[0]


def create(
    connection: Connection,
    settings: WebhookSettings,
    encryptor: Encryptor,
    actor: Actor,
    *,
    url: str,
    event_types: Sequence[str] = ALL_EVENT_TYPES,
    description: str = "",
    scheme: str = "v1",
) -> EndpointWithSecret:
    """Add an endpoint; InvalidInput names the field that is wrong."""
    values = {
        "url": check_url(url, settings), "event_types": list(check_event_types(event_types)),
        "description": check_description(description),
    }  # fmt: skip
    kind = _parse_scheme(scheme)
    [row] = connection.execute(statement("webhooks", "endpoint_create"), values).fetchall()
    secret = _add_secret(connection, row["id"], kind, encryptor)
    _record_action(connection, actor, "create", row["id"], after={"event_types": values["event_types"], "scheme": kind})
    return EndpointWithSecret(get_endpoint(connection, row["id"]), secret)


def update(
    connection: Connection,
    settings: WebhookSettings,
    actor: Actor,
    endpoint_id: str,
    *,
    url: str | None = None,
    event_types: Sequence[str] | None = None,
    description: str | None = None,
) -> Endpoint:
    """Change the given fields; None leaves a field unchanged. Waiting messages go to the new URL."""
    before = get_endpoint(connection, endpoint_id)
    values = {
        "id": endpoint_id, "url": None if url is None else check_url(url, settings),
        "event_types": None if event_types is None else list(check_event_types(event_types)),
        "description": None if description is None else check_description(description),
    }  # fmt: skip
    connection.execute(statement("webhooks", "endpoint_update"), values)
    after = get_endpoint(connection, endpoint_id)
    _record_action(
        connection, actor, "update", endpoint_id,
        before={"event_types": before.event_types},
        # Not the URL, which may hold a token.
        after={"event_types": after.event_types, "new_url": after.url != before.url},
    )  # fmt: skip
    return after


def rotate_secret(
    connection: Connection,
    settings: WebhookSettings,
    encryptor: Encryptor,
    actor: Actor,
    endpoint_id: str,
    *,
    scheme: str | None = None,
    overlap_seconds: float | None = None,
) -> EndpointWithSecret:
    """Create a new secret for an endpoint, of another scheme if one is given.

    The old ones also sign for `overlap_seconds` (by default the settings'), so that the receiver has time to switch; 0
    after a secret has leaked.
    """
    endpoint = get_endpoint(connection, endpoint_id)
    seconds = settings.rotation_overlap_seconds if overlap_seconds is None else overlap_seconds
    if not 0 <= seconds <= MAX_OVERLAP_SECONDS:
        raise InvalidInput("overlap_seconds", f"must be from 0 to {MAX_OVERLAP_SECONDS} (30 days)")
    kind = _parse_scheme(scheme or next((secret.scheme for secret in endpoint.secrets), "v1"))
    connection.execute(statement("webhooks", "secret_expire"), {"id": endpoint_id, "overlap_seconds": seconds})
    secret = _add_secret(connection, endpoint_id, kind, encryptor)
    _record_action(connection, actor, "rotate", endpoint_id, after={"scheme": kind, "overlap_seconds": seconds})
    return EndpointWithSecret(get_endpoint(connection, endpoint_id), secret)


def disable(connection: Connection, actor: Actor, endpoint_id: str, reason: str) -> int:
    """Stop sending to an endpoint, and suppress its waiting messages; returns how many were suppressed."""
    get_endpoint(connection, endpoint_id)
    reason = check_description(reason, "reason").strip()
    if not reason:
        raise InvalidInput("reason", "is required; say in a few words why it is disabled, for operators")
    count = _disable_silently(connection, endpoint_id, reason)
    if count is None:
        raise InvalidEndpointState(f"endpoint {endpoint_id} is already disabled")
    _record_action(connection, actor, "disable", endpoint_id, after={"reason": reason, "suppressed_count": count})
    return count


def enable(connection: Connection, actor: Actor, endpoint_id: str) -> Endpoint:
    """Resume sending to an endpoint, from the next event on; `replay_since` sends the events that it has missed."""
    before = get_endpoint(connection, endpoint_id)
    if not connection.execute(statement("webhooks", "endpoint_enable"), {"id": endpoint_id}).fetchall():
        raise InvalidEndpointState(f"endpoint {endpoint_id} is already active")
    _record_action(connection, actor, "enable", endpoint_id, before={"reason": before.disabled_reason})
    return get_endpoint(connection, endpoint_id)


def delete(connection: Connection, actor: Actor, endpoint_id: str) -> int:
    """Delete an endpoint with its secrets, and suppress its waiting messages; returns how many were suppressed."""
    before = {"event_types": get_endpoint(connection, endpoint_id).event_types}
    count = _disable_silently(connection, endpoint_id, "it was deleted") or 0
    connection.execute(statement("webhooks", "endpoint_delete"), {"id": endpoint_id})
    _record_action(connection, actor, "delete", endpoint_id, before=before, after={"suppressed_count": count})
    return count


def _disable_silently(connection: Connection, endpoint_id: str, why: str) -> int | None:
    """Disable an endpoint without a notification; the number of suppressed messages, or None if it was disabled already."""
    values = {"id": endpoint_id, "reason": why, "min_failing_seconds": None}
    row = connection.execute(statement("webhooks", "endpoint_disable"), values).fetchone()
    return None if row is None else int(row["suppressed_count"])


def _parse_scheme(text: str) -> Scheme:
    for scheme in SCHEMES:
        if text == scheme:
            return scheme
    raise InvalidInput("scheme", "must be v1 (a shared secret) or v1a (a public key for the receiver)")


def _add_secret(connection: Connection, endpoint_id: str, scheme: Scheme, encryptor: Encryptor) -> str | None:
    secret = new_secret(scheme)
    public = public_key(secret)
    values = {"id": endpoint_id, "scheme": scheme, "ciphertext": encryptor.encrypt(secret), "public_key": public}
    connection.execute(statement("webhooks", "secret_insert"), values)
    return secret if public is None else None


def _load_secrets(connection: Connection, rows: Sequence[DictRow]) -> list[Endpoint]:
    secrets: dict[str, list[Secret]] = {row["id"]: [] for row in rows}
    for found in connection.execute(statement("webhooks", "secret_list"), {"ids": list(secrets)}).fetchall():
        secrets[found.pop("endpoint_id")].append(Secret(**found))
    return [
        Endpoint(**{**row, "event_types": tuple(row["event_types"])}, secrets=tuple(secrets[row["id"]])) for row in rows
    ]


def _record_action(
    connection: Connection,
    actor: Actor,
    action: str,
    endpoint_id: str,
    *,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
) -> None:
    record(connection, actor, f"webhook.{action}", f"webhook/{endpoint_id}", before=before, after=after)
