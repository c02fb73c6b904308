from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator

import psycopg
import pytest
from psycopg.rows import DictRow

from backline.audit_trail import Actor
from backline.channels.webhook.settings import WebhookSettings
from backline.encryption import Encryptor
from backline.webhooks import endpoints
from tests.integration.conftest import TEST_FERNET_KEY
from tests.integration.outbox.conftest import outbox, shared_database
from tests.integration.outbox.support import Outbox
from tests.integration.webhooks.receiver import Receiver, running_receiver

__all__ = ["outbox", "shared_database"]
ACTOR = Actor("ann", "request-1")
ENCRYPTOR = Encryptor([TEST_FERNET_KEY])
PERMISSIVE_SETTINGS = WebhookSettings(require_https=False, allowed_addresses=("127.0.0.1",))


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with running_receiver() as made:
        yield made


@pytest.fixture
def webhook_outbox(outbox: Outbox) -> WebhookOutbox:
    """An empty outbox without endpoints."""
    outbox.sql("TRUNCATE backline.webhook_endpoint CASCADE")
    outbox.sql("TRUNCATE backline.audit_trail")
    return WebhookOutbox(outbox)


class WebhookOutbox:
    """The outbox, with shortcuts for endpoints and events."""

    def __init__(self, outbox: Outbox) -> None:
        self.outbox = outbox

    @property
    def connection(self) -> psycopg.Connection[DictRow]:
        return self.outbox.connection

    def endpoint(
        self, url: str = "http://127.0.0.1:9/", *event_types: str, scheme: str = "v1"
    ) -> endpoints.EndpointWithSecret:
        return endpoints.create(
            self.connection,
            PERMISSIVE_SETTINGS,
            ENCRYPTOR,
            ACTOR,
            url=url,
            event_types=event_types or ("*",),
            scheme=scheme,
        )

    def event(self, event_type: str = "order.paid", to: str = "*", **payload: object) -> int:
        content = {"event_type": event_type, "data": {"order": "1042"}, **payload}
        return self.outbox.enqueue(to, type="webhook", payload=json.dumps(content))

    def rows(self, event: int) -> list[DictRow]:
        """The messages of an event, in the order of their endpoints."""
        return self.outbox.sql("SELECT * FROM backline.message WHERE group_id = %s ORDER BY id", event)


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
