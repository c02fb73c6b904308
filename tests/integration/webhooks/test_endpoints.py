"""Endpoints in the database: subscriptions, actions of operators, and replays."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from backline.audit_trail import Filters, search
from backline.channels.webhook.endpoints import DeliveryEndpoint, disabled_notification
from backline.channels.webhook.settings import WebhookSettings
from backline.channels.webhook.signatures import public_key
from backline.channels.webhook.ssrf_guard import AddressNotAllowed
from backline.db.connect import translate_error
from backline.errors import InvalidInput, UnknownFailure
from backline.messages import registry
from backline.outbox import queries
from backline.webhooks import endpoints
from tests.integration.webhooks.conftest import ACTOR, ENCRYPTOR, PERMISSIVE_SETTINGS, WebhookOutbox


def recipients(webhook_outbox: WebhookOutbox, event: int) -> list[str]:
    return [row["recipient"] for row in webhook_outbox.rows(event)]


def error_of(webhook_outbox: WebhookOutbox, message_id: int) -> str:
    found = queries.get_message(webhook_outbox.connection, message_id)
    assert found is not None
    return found.explanation


# --- the fan-out ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("filters", "event_type", "gets"),
    [
        (["*"], "order.paid", True),
        (["order.paid"], "order.paid", True),
        (["order.paid"], "order.paid.late", False),
        (["order.*"], "order.paid", True),
        (["order.*"], "order.paid.late", True),
        (["order.*"], "order", False),
        (["order.*"], "orders.paid", False),
        (["order_.*"], "orderX.paid", False),
        (["user.*", "order.paid"], "order.paid", True),
        (["*"], "job.failed", False),
        (["*"], "job.posted", True),
        (["*", "job.*"], "job.failed", True),
        (["job.succeeded"], "job.succeeded", True),
        (["user.*", "report.ready"], "order.paid", False),
    ],
)
def test_an_endpoint_gets_the_events_it_subscribes_to(
    webhook_outbox: WebhookOutbox, filters: list[str], event_type: str, *, gets: bool
) -> None:
    made = webhook_outbox.endpoint("http://127.0.0.1:9/", *filters)
    assert recipients(webhook_outbox, webhook_outbox.event(event_type)) == ([made.endpoint.id] if gets else [])


def test_an_event_becomes_a_message_for_each_endpoint(webhook_outbox: WebhookOutbox) -> None:
    first, second, other = (
        webhook_outbox.endpoint(),
        webhook_outbox.endpoint(),
        webhook_outbox.endpoint("http://127.0.0.1:9/", "user.*"),
    )
    event = webhook_outbox.event()
    assert recipients(webhook_outbox, event) == [first.endpoint.id, second.endpoint.id]
    assert other.endpoint.id not in recipients(webhook_outbox, event)
    row = webhook_outbox.outbox.message(event)
    assert (row["state"], row["provider_id"]) == ("sent", "2 endpoints")
    assert error_of(webhook_outbox, event) == (
        f"Fanned out at {row['finalized_at']:%Y-%m-%d %H:%M:%S %Z} to 2 endpoints: group {event} has a message for each."
    )
    payloads = [one["payload"] for one in webhook_outbox.rows(event)]
    assert payloads[0] == payloads[1]
    assert payloads[0]["event_id"].startswith(f"evt_{event}_")
    assert datetime.fromisoformat(payloads[0]["occurred_at"]) - row["created_at"] < timedelta(seconds=1)
    for one in payloads:
        registry.get("webhook").parse(one)
    assert [one.id for one in queries.get_group(webhook_outbox.connection, event)] == [
        one["id"] for one in webhook_outbox.rows(event)
    ]


def test_an_event_without_subscribers_is_explained(webhook_outbox: WebhookOutbox) -> None:
    webhook_outbox.endpoint("http://127.0.0.1:9/", "user.*")
    event = webhook_outbox.event()
    assert webhook_outbox.outbox.message(event)["state"] == "suppressed"
    assert error_of(webhook_outbox, event) == "Not sent: no active endpoint is subscribed to order.paid."


def test_an_event_keeps_its_given_id_and_time(webhook_outbox: WebhookOutbox) -> None:
    webhook_outbox.endpoint()
    event = webhook_outbox.event(event_id="order-1042", occurred_at="2026-03-01T18:30:00Z")
    (row,) = webhook_outbox.rows(event)
    assert (row["payload"]["event_id"], row["payload"]["occurred_at"]) == ("order-1042", "2026-03-01T18:30:00Z")
    nulls = webhook_outbox.event(event_id=None, occurred_at=None)
    assert webhook_outbox.rows(nulls)[0]["payload"]["event_id"].startswith("evt_")


def test_a_later_event_waits_with_all_its_messages(webhook_outbox: WebhookOutbox) -> None:
    webhook_outbox.endpoint()
    later = webhook_outbox.outbox.enqueue(
        "*", type="webhook", due_at=datetime.now(UTC) + timedelta(hours=1),
        payload=json.dumps({"event_type": "order.paid", "data": {}}),
    )  # fmt: skip
    (row,) = webhook_outbox.rows(later)
    assert (row["state"], row["max_attempts"], row["lane"]) == ("scheduled", 8, "webhook.normal")


def test_an_event_for_one_endpoint_goes_there_whatever_it_subscribes_to(webhook_outbox: WebhookOutbox) -> None:
    made = webhook_outbox.endpoint("http://127.0.0.1:9/", "user.*")
    row = webhook_outbox.outbox.message(webhook_outbox.event(to=made.endpoint.id))
    assert (row["state"], row["recipient"], row["group_id"]) == ("pending", made.endpoint.id, None)


def test_an_unknown_endpoint_is_refused_by_name(webhook_outbox: WebhookOutbox) -> None:
    with pytest.raises(Exception, match="there is no webhook endpoint 'ep_999999'") as caught:
        webhook_outbox.event(to="ep_999999")
    exc = translate_error(caught.value)  # type: ignore[arg-type]
    assert isinstance(exc, InvalidInput)
    assert exc.field == "recipient"


def test_the_same_key_gives_the_same_event(webhook_outbox: WebhookOutbox) -> None:
    webhook_outbox.endpoint()
    payload = json.dumps({"event_type": "order.paid", "data": {}})
    first = webhook_outbox.outbox.enqueue("*", type="webhook", payload=payload, idempotency_key="order-1042")
    assert webhook_outbox.outbox.enqueue("*", type="webhook", payload=payload, idempotency_key="order-1042") == first
    assert len(webhook_outbox.rows(first)) == 1


def test_a_rolled_back_transaction_sends_no_event(webhook_outbox: WebhookOutbox) -> None:
    webhook_outbox.endpoint()
    with webhook_outbox.connection.transaction(force_rollback=True):
        webhook_outbox.event()
    assert webhook_outbox.outbox.state_counts() == {}


# --- what people do ---------------------------------------------------------------------------------


def test_an_endpoints_secret_is_returned_once_and_stored_encrypted(webhook_outbox: WebhookOutbox) -> None:
    made = webhook_outbox.endpoint("https://shop.example/hook?token=in-the-url")
    (row,) = webhook_outbox.outbox.sql("SELECT ciphertext FROM backline.webhook_secret")
    assert made.secret is not None
    assert made.secret.startswith("whsec_")
    assert made.secret not in row["ciphertext"]
    assert ENCRYPTOR.decrypt("secret", row["ciphertext"]) == made.secret
    assert made.secret not in repr(made)
    (found,) = endpoints.list_endpoints(webhook_outbox.connection)
    assert found == endpoints.get_endpoint(webhook_outbox.connection, made.endpoint.id) == made.endpoint
    assert made.secret not in repr(found)
    (act,) = search(webhook_outbox.connection, Filters(), None, 10)
    assert (act["actor"], act["action"], act["target"]) == ("ann", "webhook.create", f"webhook/{made.endpoint.id}")
    assert made.secret not in str(act)
    assert "in-the-url" not in str(act)


def test_the_public_key_of_v1a_is_always_shown(webhook_outbox: WebhookOutbox) -> None:
    made = webhook_outbox.endpoint(scheme="v1a")
    (secret,) = endpoints.get_endpoint(webhook_outbox.connection, made.endpoint.id).secrets
    (row,) = webhook_outbox.outbox.sql("SELECT ciphertext FROM backline.webhook_secret")
    assert (secret.scheme, secret.public_key) == ("v1a", public_key(ENCRYPTOR.decrypt("secret", row["ciphertext"])))
    assert made.secret is None


def test_a_rotation_keeps_the_scheme_and_lets_the_old_one_expire(webhook_outbox: WebhookOutbox) -> None:
    made = webhook_outbox.endpoint(scheme="v1a")
    turned = endpoints.rotate_secret(webhook_outbox.connection, PERMISSIVE_SETTINGS, ENCRYPTOR, ACTOR, made.endpoint.id)
    new, old = turned.endpoint.secrets
    assert (new.scheme, new.expires_at) == ("v1a", None)
    assert old.expires_at is not None
    assert timedelta(hours=23, minutes=59) < old.expires_at - new.created_at <= timedelta(hours=24, seconds=5)
    at_once = endpoints.rotate_secret(
        webhook_outbox.connection,
        PERMISSIVE_SETTINGS,
        ENCRYPTOR,
        ACTOR,
        made.endpoint.id,
        scheme="v1",
        overlap_seconds=0,
    )
    assert [secret.scheme for secret in at_once.endpoint.secrets] == ["v1"]
    endpoints.rotate_secret(webhook_outbox.connection, PERMISSIVE_SETTINGS, ENCRYPTOR, ACTOR, made.endpoint.id)
    assert (
        len(webhook_outbox.outbox.sql("SELECT id FROM backline.webhook_secret")) == 2
    )  # those that have expired are forgotten


def test_waiting_messages_of_a_disabled_endpoint_are_suppressed_with_the_reason(webhook_outbox: WebhookOutbox) -> None:
    made, other = webhook_outbox.endpoint(), webhook_outbox.endpoint()
    waiting, later = webhook_outbox.event(), webhook_outbox.event()
    webhook_outbox.outbox.sql(
        "UPDATE backline.message SET state = 'scheduled' WHERE group_id = %s AND recipient = %s",
        later,
        made.endpoint.id,
    )
    assert endpoints.disable(webhook_outbox.connection, ACTOR, made.endpoint.id, "they move house") == 2
    for event in (waiting, later):
        mine, theirs = webhook_outbox.rows(event)
        assert (mine["state"], theirs["state"]) == ("suppressed", "pending")
        assert "was disabled: they move house" in error_of(webhook_outbox, mine["id"])
    assert recipients(webhook_outbox, webhook_outbox.event()) == [other.endpoint.id]
    straight = webhook_outbox.outbox.message(webhook_outbox.event(to=made.endpoint.id))
    assert (straight["state"], straight["error"]) == (
        "suppressed", f"endpoint {made.endpoint.id} is disabled: they move house",
    )  # fmt: skip
    with pytest.raises(endpoints.InvalidEndpointState, match="already disabled"):
        endpoints.disable(webhook_outbox.connection, ACTOR, made.endpoint.id, "again")
    assert endpoints.enable(webhook_outbox.connection, ACTOR, made.endpoint.id).state == "active"
    with pytest.raises(endpoints.InvalidEndpointState, match="already active"):
        endpoints.enable(webhook_outbox.connection, ACTOR, made.endpoint.id)
    assert len(recipients(webhook_outbox, webhook_outbox.event())) == 2


def test_waiting_messages_of_a_deleted_endpoint_are_suppressed(webhook_outbox: WebhookOutbox) -> None:
    made = webhook_outbox.endpoint()
    (row,) = webhook_outbox.rows(webhook_outbox.event())
    assert endpoints.delete(webhook_outbox.connection, ACTOR, made.endpoint.id) == 1
    assert "was disabled: it was deleted" in error_of(webhook_outbox, row["id"])
    assert webhook_outbox.outbox.sql("SELECT id FROM backline.webhook_secret") == []
    with pytest.raises(endpoints.EndpointNotFound):
        endpoints.get_endpoint(webhook_outbox.connection, made.endpoint.id)


def test_an_update_changes_only_the_given_fields(webhook_outbox: WebhookOutbox) -> None:
    made = webhook_outbox.endpoint()
    changed = endpoints.update(
        webhook_outbox.connection, PERMISSIVE_SETTINGS, ACTOR, made.endpoint.id, event_types=["user.*"]
    )
    assert (changed.url, changed.event_types) == (made.endpoint.url, ("user.*",))
    assert recipients(webhook_outbox, webhook_outbox.event()) == []


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("url", {"url": "http://shop.example/"}),
        ("url", {"url": "ftp://shop.example/"}),
        ("url", {"url": "https://"}),
        ("url", {"url": "shop.example/hook"}),
        ("url", {"url": "https://ann:secret@shop.example/"}),
        ("url", {"url": "https://shop.example/#part"}),
        ("url", {"url": "https://shop.example:99999/"}),
        ("url", {"url": "https://shop.example:0/"}),
        ("url", {"url": "https://a..b/"}),
        ("url", {"url": f"https://{'x' * 64}.example/"}),
        ("url", {"url": "https://127.1/"}),
        ("url", {"url": "https://0x7f000001/"}),
        ("url", {"url": "https://2130706433/"}),
        ("url", {"url": "https://shop.example/a b"}),
        ("url", {"url": "https://shop.example/" + "x" * 2000}),
        ("url", {"url": "https://127.0.0.1/"}),
        ("url", {"url": "https://[::1]/"}),
        ("url", {"url": "https://[::ffff:169.254.169.254]/"}),
        ("url", {"url": "https://[::1"}),
        ("event_types", {"event_types": []}),
        ("event_types", {"event_types": ["order.**"]}),
        ("event_types", {"event_types": ["order paid"]}),
        ("event_types", {"event_types": [".*"]}),
        ("event_types", {"event_types": ["x" * 129]}),
        ("description", {"description": "two\nlines"}),
        ("description", {"description": "x" * 201}),
        ("scheme", {"scheme": "v2"}),
    ],
)
def test_invalid_input_is_refused_by_field(webhook_outbox: WebhookOutbox, field: str, values: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput) as caught:
        endpoints.create(
            webhook_outbox.connection, WebhookSettings(), ENCRYPTOR, ACTOR, **{"url": "https://shop.example/", **values}
        )
    assert caught.value.field == field
    assert webhook_outbox.outbox.sql("SELECT id FROM backline.webhook_endpoint") == []


def test_a_private_address_is_accepted_if_the_settings_allow_it(webhook_outbox: WebhookOutbox) -> None:
    wanted = WebhookSettings(require_https=False, allowed_addresses=("10.0.0.5:8080",))
    endpoints.create(webhook_outbox.connection, wanted, ENCRYPTOR, ACTOR, url="http://10.0.0.5:8080/")
    with pytest.raises(AddressNotAllowed):
        endpoints.create(webhook_outbox.connection, wanted, ENCRYPTOR, ACTOR, url="http://10.0.0.5/")


def test_the_notification_is_a_valid_email() -> None:
    target = DeliveryEndpoint("ep_7", "https://shop.example/hook?token=in-the-url", None, None, ("whsec_x",))
    payload = disabled_notification(target, str(UnknownFailure("ep_7 answered 500")))
    content = registry.get("urgent_email").parse(payload).email()  # type: ignore[attr-defined]
    assert content.subject == "[warning] Webhook endpoint ep_7 was disabled"
    for part in (content.text, content.html):
        assert "shop.example" in part
        assert "./backline webhooks enable ep_7" in part
        assert "in-the-url" not in part
    assert "in-the-url" not in repr(target)
    assert "whsec_x" not in repr(target)


# --- given again ------------------------------------------------------------------------------------


def finish_delivery(webhook_outbox: WebhookOutbox, event: int, endpoint_id: str, state: str) -> None:
    """Finalize the message as a delivery does."""
    webhook_outbox.outbox.sql(
        "UPDATE backline.message SET state = %s::backline.message_state, finalized_at = clock_timestamp()"
        " WHERE group_id = %s AND recipient = %s", state, event, endpoint_id,
    )  # fmt: skip


def replayed(webhook_outbox: WebhookOutbox, ids: list[int]) -> list[str]:
    return [webhook_outbox.outbox.message(one)["payload"]["event_id"] for one in ids]


def test_missed_events_are_replayed_with_their_own_ids(webhook_outbox: WebhookOutbox) -> None:
    since = datetime.now(UTC) - timedelta(minutes=1)
    made, other = webhook_outbox.endpoint("http://127.0.0.1:9/", "order.*"), webhook_outbox.endpoint()
    mine = made.endpoint.id
    took, died, waits, foreign = (webhook_outbox.event(kind) for kind in ("order.a", "order.b", "order.c", "user.a"))
    finish_delivery(webhook_outbox, took, mine, "sent")
    finish_delivery(webhook_outbox, died, mine, "dead")
    straight = webhook_outbox.event("any.thing", to=mine, event_id="straight")
    webhook_outbox.outbox.sql(
        "UPDATE backline.message SET state = 'dead', finalized_at = now() WHERE id = %s", straight
    )
    webhook_outbox.event("any.thing", to=other.endpoint.id, event_id="not-mine")
    endpoints.disable(webhook_outbox.connection, ACTOR, mine, "a while")
    missed = webhook_outbox.event("order.d")
    endpoints.enable(webhook_outbox.connection, ACTOR, mine)
    ids = endpoints.replay_since(webhook_outbox.connection, ACTOR, mine, since)
    event_ids = {
        event: webhook_outbox.outbox.message(event)["payload"]["event_id"] for event in (took, died, waits, missed)
    }
    assert replayed(webhook_outbox, ids) == [event_ids[died], event_ids[waits], "straight", event_ids[missed]]
    rows = [webhook_outbox.outbox.message(one) for one in ids]
    assert {(row["state"], row["recipient"], row["request_id"]) for row in rows} == {("pending", mine, "request-1")}
    assert [row["replay_of"] for row in rows] == [died, waits, straight, missed]
    assert endpoints.replay_since(webhook_outbox.connection, ACTOR, mine, since) == []
    everything = endpoints.replay_since(webhook_outbox.connection, ACTOR, mine, since, include_delivered=True)
    assert set(replayed(webhook_outbox, everything)) == {*event_ids.values(), "straight"}
    assert webhook_outbox.outbox.message(foreign)["payload"]["event_id"] not in replayed(webhook_outbox, everything)
    act = search(webhook_outbox.connection, Filters(action="webhook.replay"), None, 10)[0]
    assert (act["after"]["count"], act["after"]["include_delivered"]) == (5, True)


def test_a_new_endpoint_can_replay_earlier_events(webhook_outbox: WebhookOutbox) -> None:
    event = webhook_outbox.event()
    made = webhook_outbox.endpoint()
    (new,) = endpoints.replay_since(
        webhook_outbox.connection, ACTOR, made.endpoint.id, datetime.now(UTC) - timedelta(minutes=1)
    )
    assert webhook_outbox.outbox.message(new)["payload"] == webhook_outbox.outbox.message(event)["payload"]
    assert (
        endpoints.replay_since(
            webhook_outbox.connection, ACTOR, made.endpoint.id, datetime.now(UTC) + timedelta(minutes=1)
        )
        == []
    )


def test_one_event_is_replayed_to_one_endpoint(webhook_outbox: WebhookOutbox) -> None:
    made, other = webhook_outbox.endpoint(), webhook_outbox.endpoint()
    event = webhook_outbox.event()
    finish_delivery(webhook_outbox, event, made.endpoint.id, "sent")
    (first, second) = webhook_outbox.rows(event)
    for message in (event, first["id"]):
        new = webhook_outbox.outbox.message(
            endpoints.replay_one(webhook_outbox.connection, ACTOR, made.endpoint.id, message)
        )
        assert (new["payload"], new["recipient"], new["replay_of"]) == (first["payload"], made.endpoint.id, message)
    with pytest.raises(InvalidInput, match="is not an event for endpoint"):
        endpoints.replay_one(webhook_outbox.connection, ACTOR, made.endpoint.id, second["id"])
    endpoints.disable(webhook_outbox.connection, ACTOR, other.endpoint.id, "x")
    with pytest.raises(endpoints.InvalidEndpointState, match="is disabled: x; enable it first"):
        endpoints.replay_one(webhook_outbox.connection, ACTOR, other.endpoint.id, event)


def test_a_test_event_goes_to_one_endpoint_whatever_it_subscribes_to(webhook_outbox: WebhookOutbox) -> None:
    made = webhook_outbox.endpoint("http://127.0.0.1:9/", "user.*")
    row = webhook_outbox.outbox.message(endpoints.send_test(webhook_outbox.connection, ACTOR, made.endpoint.id))
    assert (row["payload"]["event_type"], row["recipient"]) == ("backline.test", made.endpoint.id)
    registry.get("webhook").parse(row["payload"])
