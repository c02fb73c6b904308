"""An event that reaches another system's endpoint, signed so that it can tell who sent it."""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any

import httpx

from backline.audit_trail import Actor
from backline.db.connect import session
from backline.encryption import Encryptor
from backline.webhooks import endpoints
from backline.webhooks.settings import WebhookSettings
from demo.check import Check, Result, require, wait_until
from demo.context import DemoContext

EVENT = {"event_type": "order.paid", "data": {"order": "1042", "total": "72.80", "currency": "EUR"}}
ACTOR = Actor("demo")


def signed_event_check() -> Check:
    """An event fired by SQL, at the sandbox's endpoint."""
    return Check("an event reaches its endpoint, signed", _check_signed_event)


def _check_signed_event(world: DemoContext) -> Result:
    name = f"demo-{world.tag}"
    url = f"{world.stack.variables()['BACKLINE_WEBHOOK_URL']}/{name}"
    address = httpx.URL(url)
    settings = WebhookSettings(require_https=False, allowed_addresses=(f"{address.host}:{address.port}",))
    sealer = Encryptor(world.stack.secrets.backline_fernet_keys.split(","))
    with session(world.dsn, name="demo") as connection:
        made = endpoints.create(connection, settings, sealer, ACTOR, url=url, event_types=["order.paid"])
        try:
            event = world.enqueue("webhook", "*", EVENT)
            [row] = world.query("messages", "message_group", id=event)
            wait_until(lambda: world.message_status(row["id"])["state"] == "sent", "the event to be taken")
        finally:
            endpoints.delete(connection, ACTOR, made.endpoint.id)
    requests = httpx.get(str(address.join("/webhooks/api/requests")), params={"name": name}, trust_env=False).json()
    require(len(requests["requests"]) == 1, f"{len(requests['requests'])} requests came to {url} instead of 1")
    [got] = requests["requests"]
    wanted = _expected_signature(made.secret or "", got["headers"], got["body"])
    require(got["headers"]["webhook-signature"] == wanted, "the signature does not fit the secret and the body")
    return Result("1 request, signed", "1 request, signed")


def _expected_signature(secret: str, headers: Mapping[str, Any], body: str) -> str:
    """As a receiver makes it, to compare."""
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.{body}"
    key = b64decode(secret.removeprefix("whsec_"))
    return f"v1,{b64encode(hmac.digest(key, content.encode(), hashlib.sha256)).decode()}"
