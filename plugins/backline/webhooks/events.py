"""Events sent to an endpoint by hand: a test event, and replays of events that it has missed."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from backline.audit_trail import Actor, record
from backline.db.statements import statement
from backline.errors import InvalidInput
from backline.outbox.submission import NewMessage, enqueue, enqueue_many
from backline.webhooks.endpoints import Connection, Endpoint, InvalidEndpointState, get_endpoint

TEST_EVENT = "backline.test"
BATCH_LIMIT = 10_000
"""Maximum number of events in one replay; repeating it continues with those still missing."""


def send_test(connection: Connection, actor: Actor, endpoint_id: str) -> int:
    """Send an event of the type `backline.test` to an active endpoint, whatever it subscribes to; the message's id."""
    _require_active(connection, endpoint_id)
    payload = {
        "event_type": TEST_EVENT,
        "data": {"endpoint": endpoint_id, "text": "A test event: the endpoint works if you can read this."},
    }
    message_id = enqueue(connection, "webhook", endpoint_id, payload, request_id=actor.request_id)
    record(connection, actor, "webhook.test", f"webhook/{endpoint_id}", after={"message": message_id})
    return message_id


def replay_one(connection: Connection, actor: Actor, endpoint_id: str, message_id: int) -> int:
    """Send the event of one message to an endpoint again, under the event's own id; the new message's id."""
    _require_active(connection, endpoint_id)
    values = {"id": endpoint_id, "message_id": message_id}
    found = connection.execute(statement("webhooks", "endpoint_message_get"), values).fetchone()
    if found is None:
        raise InvalidInput("message", f"{message_id} is not an event for endpoint {endpoint_id}; give the id of one")
    message = NewMessage("webhook", endpoint_id, found["payload"], request_id=actor.request_id, replay_of=message_id)
    [new] = enqueue_many(connection, [message])
    _record_replay(connection, actor, endpoint_id, {"message": message_id, "new": new})
    return new


def replay_since(
    connection: Connection, actor: Actor, endpoint_id: str, since: datetime, *, include_delivered: bool = False
) -> list[int]:
    """Send an endpoint the events since then that it subscribes to and has missed; returns the ids of the new messages.

    Events from before it existed and while it was disabled are included; with `include_delivered` also those that were
    delivered. At most 10,000 at a time, oldest first.
    """
    endpoint = _require_active(connection, endpoint_id)
    values = {
        "id": endpoint_id, "since": since, "include_delivered": include_delivered, "event_types": list(endpoint.event_types),
        "request_id": actor.request_id, "batch_limit": BATCH_LIMIT,
    }  # fmt: skip
    ids = [int(row["id"]) for row in connection.execute(statement("webhooks", "event_replay"), values).fetchall()]
    after = {"since": since.isoformat(), "include_delivered": include_delivered, "count": len(ids)}
    _record_replay(connection, actor, endpoint_id, after)
    return sorted(ids)


def _require_active(connection: Connection, endpoint_id: str) -> Endpoint:
    endpoint = get_endpoint(connection, endpoint_id)
    if endpoint.state != "active":
        raise InvalidEndpointState(f"endpoint {endpoint_id} is disabled: {endpoint.disabled_reason}; enable it first")
    return endpoint


def _record_replay(connection: Connection, actor: Actor, endpoint_id: str, after: Mapping[str, Any]) -> None:
    record(connection, actor, "webhook.replay", f"webhook/{endpoint_id}", after=after)
