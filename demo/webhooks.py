"""A webhook event that reaches its endpoint with a valid signature."""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any

import httpx

from backline.audit_trail import Actor
from backline.channels.webhook.settings import WebhookSettings
from backline.db.connect import session
from backline.encryption import Encryptor
from backline.webhooks import endpoints
from demo.check import Check, Result, require, wait_until
from demo.context import DemoContext

EVENT = {"event_type": "order.paid", "data": {"order": "1042", "total": "72.80", "currency": "EUR"}}
ACTOR = Actor("demo")


def signed_event_check() -> Check:
    """An event enqueued by SQL, at the sandbox's endpoint."""
    return Check("an event reaches its endpoint, signed", _check_signed_event)


def _check_signed_event(context: DemoContext) -> Result:
    name = f"demo-{context.tag}"
    url = f"{context.stack.variables()['BACKLINE_WEBHOOK_URL']}/{name}"
    address = httpx.URL(url)
    settings = WebhookSettings(require_https=False, allowed_addresses=(f"{address.host}:{address.port}",))
    encryptor = Encryptor(context.stack.secrets.backline_fernet_keys.split(","))
    with session(context.dsn, name="demo") as connection:
        created = endpoints.create(connection, settings, encryptor, ACTOR, url=url, event_types=["order.paid"])
        try:
            event = context.enqueue("webhook", "*", EVENT)
            [row] = context.query("messages", "message_group", id=event)
            wait_until(lambda: context.message_status(row["id"])["state"] == "sent", "the delivery of the event")
        finally:
            endpoints.delete(connection, ACTOR, created.endpoint.id)
    mail_url = context.stack.variables()["BACKLINE_MAIL_URL"]
    requests = httpx.get(f"{mail_url}/webhooks/api/requests", params={"name": name}, trust_env=False).json()
    require(len(requests["requests"]) == 1, f"{len(requests['requests'])} requests arrived at {url} instead of 1")
    [request] = requests["requests"]
    expected = _expected_signature(created.secret or "", request["headers"], request["body"])
    require(request["headers"]["webhook-signature"] == expected, "the signature does not match the secret and the body")
    return Result("1 request, signed", "1 request, signed")


def _expected_signature(secret: str, headers: Mapping[str, Any], body: str) -> str:
    """Compute the signature as a receiver does."""
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.{body}"
    key = b64decode(secret.removeprefix("whsec_"))
    return f"v1,{b64encode(hmac.digest(key, content.encode(), hashlib.sha256)).decode()}"
