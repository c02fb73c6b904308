"""Each message type on the real stack: what arrives is what its sample renders to."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from backline.channels.base import EmailContent, Message, PushContent
from backline.channels.email.mime import html_to_text, normalize_newlines
from backline.encryption import Encryptor
from backline.messages import registry, renderer
from backline.messages.recipients import serialize
from backline.messages.secrets import encrypt_secrets
from demo.check import wait_until
from demo.context import CAUGHT_CHANNELS
from testkit.sandbox_clients import ReceivedEmail
from tests.acceptance.isolated_stack import IsolatedStack

pytestmark = pytest.mark.stack

SENT = [
    (kind.type_name, channel)
    for kind in registry.all_types()
    if set(kind.channels) <= CAUGHT_CHANNELS
    for channel in kind.channels
]
"""Every type over each of its channels; test_webhook.py has events."""
Arrived = dict[tuple[str, str], Any]


@pytest.fixture(scope="module")
def arrived(stack: IsolatedStack) -> Arrived:
    """What arrived, by type and channel; all messages were enqueued in one transaction."""
    emails = {name for name, channel in SENT if channel == "email"}
    found: Arrived = {}
    with stack.context() as context:
        context.mail.set_faults()
        encrypt = Encryptor([context.stack.secrets.backline_fernet_keys]).encrypt
        with context.transaction():
            for name in {name: None for name, _ in SENT}:
                kind = registry.get(name)
                to = {channel: context.recipients(name)[channel] for channel in kind.channels}
                context.enqueue(name, serialize(kind.channels, to), encrypt_secrets(kind, kind.sample(), encrypt))
        for arrival in context.wait_for_emails(context.domain("types"), len(emails)):
            found[arrival.recipients[0].partition("@")[0], "email"] = context.mail.get_email(arrival.id)
        for name, channel in SENT:
            if channel != "email":
                recipient = context.recipients(name)[channel]

                def received(channel: str = channel, recipient: str = recipient) -> list[dict[str, Any]]:
                    return context.gateways.received(channel, recipient)

                [found[name, channel]] = wait_until(received, f"{name} by {channel}")
    return found


@pytest.mark.parametrize(("name", "channel"), SENT)
def test_a_type_arrives_as_its_sample_renders(name: str, channel: str, arrived: Arrived) -> None:
    sample = Message(1, name, "ann@example.com", registry.get(name).sample(), datetime.now(UTC))
    rendered, received = renderer(channel)(sample), arrived[name, channel]
    if isinstance(received, ReceivedEmail):
        assert isinstance(rendered, EmailContent)
        text = rendered.text if rendered.text is not None else html_to_text(rendered.html or "")
        assert (received.subject, received.text) == (rendered.subject, normalize_newlines(text))
        assert received.html == (normalize_newlines(rendered.html) if rendered.html else "")
    elif isinstance(rendered, PushContent):
        assert (received["title"], received["text"]) == (rendered.title, rendered.body)
    else:
        assert received["text"] == rendered
