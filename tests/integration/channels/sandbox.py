"""The sandbox as a process, and each channel over it, for the conformance suite."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Self

import httpx
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from backline.channels.base import Channel, EmailContent, Message, PushContent, WebhookContent
from backline.channels.email.channel import EmailChannel
from backline.channels.email.settings import EmailSettings
from backline.channels.http import HttpGateway
from backline.channels.push.channel import DeviceStore, PushChannel
from backline.channels.push.settings import PushSettings
from backline.channels.sms.channel import SmsChannel
from backline.channels.sms.settings import SmsSettings
from backline.channels.webhook.channel import WebhookChannel
from backline.channels.webhook.endpoints import DeliveryEndpoint, EndpointStore
from backline.channels.webhook.settings import WebhookSettings
from backline.channels.webhook.signatures import new_secret
from backline.errors import BacklineError
from backline.settings import ROOT
from smtp_pipeline import SmtpServer

READY = re.compile(r"SMTP 127\.0\.0\.1:(\d+), page (http://127\.0\.0\.1:\d+)/")
ENDPOINT = "ep_1"
CREATED = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
TIMEOUT = 5.0


@dataclass
class Sandbox:
    """`python -m sandbox.mail`, started for these tests."""

    process: subprocess.Popen[str]
    smtp_port: int
    web: httpx.Client

    @classmethod
    def start(cls, folder: Path) -> Self:
        command = [
            sys.executable,
            "-m",
            "sandbox.mail",
            "--smtp-port",
            "0",
            "--web-port",
            "0",
            "--maildir",
            str(folder),
        ]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        assert process.stdout
        ready = READY.search(process.stdout.readline())
        assert ready
        return cls(process, int(ready[1]), httpx.Client(base_url=ready[2], trust_env=False))

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(10) == 0
        assert self.process.stdout
        self.process.stdout.close()
        self.web.close()

    def url(self, path: str) -> str:
        return str(self.web.base_url.join(path))

    def get(self, path: str, **query: Any) -> Any:
        response = self.web.get(path, params=query)
        assert response.status_code == 200, response.text
        return response.json()


@cache
def service_key() -> RSAPrivateKey:
    return generate_private_key(65537, 2048)


def service_account(token_url: str) -> dict[str, str]:
    pem = service_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return {
        "type": "service_account",
        "project_id": "shop",
        "client_email": "backline@shop.example",
        "private_key": pem,
        "private_key_id": "k1",
        "token_uri": token_url,
    }


@dataclass
class InMemoryDeviceStore(DeviceStore):
    """Devices in memory: in place of the app's tables."""

    devices: dict[str, list[str]] = field(default_factory=dict)
    removed: list[str] = field(default_factory=list)
    error: Exception | None = None

    async def list_tokens(self, person: str) -> list[str]:
        return self.devices.get(person, [])

    async def remove(self, token: str, reason: str) -> None:
        assert reason
        if self.error is not None:
            raise self.error
        self.removed.append(token)

    async def close(self) -> None:
        pass


def sms_channel(url: str, text: str = "Hello", *, password: str = "sandbox", **settings: Any) -> SmsChannel:
    gateway = HttpGateway("sms_gateway", url, "ACsandbox", password)
    return SmsChannel(SmsSettings(**{"timeout_seconds": TIMEOUT, **settings}), gateway, lambda _: text)


def push_channel(
    url: str,
    content: PushContent | None = None,
    devices: DeviceStore | None = None,
    *,
    token_url: str = "",
    **settings: Any,
) -> PushChannel:
    account = service_account(token_url or f"{url}/token")
    gateway = HttpGateway("push_gateway", url, extra={"service_account": account})
    said = content or PushContent("Hello", "Hello")
    return PushChannel(
        PushSettings(**{"timeout_seconds": TIMEOUT, **settings}),
        gateway,
        lambda _: said,
        devices or InMemoryDeviceStore(),
    )


def email_channel(port: int, text: str = "Hello", **settings: Any) -> EmailChannel:
    given = EmailSettings(**{"timeout_seconds": TIMEOUT, **settings})
    return EmailChannel(given, SmtpServer("127.0.0.1", port, "none"), lambda _: EmailContent("Hello", text))


class InMemoryEndpointStore(EndpointStore):
    """An endpoint in memory: in place of Backline's own tables."""

    def __init__(self, url: str) -> None:
        self._endpoint = DeliveryEndpoint(ENDPOINT, url, None, None, (new_secret("v1"),))

    async def get(self, endpoint_id: str) -> DeliveryEndpoint | None:
        return self._endpoint if endpoint_id == ENDPOINT else None

    async def record_success(self, target: DeliveryEndpoint) -> None:
        pass

    async def record_failure(self, target: DeliveryEndpoint, error: BacklineError, *, gone: bool = False) -> None:
        pass

    async def close(self) -> None:
        pass


def webhook_channel(url: str, text: str = "Hello", timeout: float = TIMEOUT) -> WebhookChannel:
    settings = WebhookSettings(require_https=False, allowed_addresses=("127.0.0.1",), timeout_seconds=timeout)

    def event(message: Message) -> WebhookContent:
        return WebhookContent(f"evt_{message.id}", "order.paid", CREATED, {"text": text})

    return WebhookChannel(settings, lambda: InMemoryEndpointStore(url), event)


@dataclass(frozen=True)
class ChannelCase:
    """One channel over the sandbox, and how to inject faults into its receiver."""

    name: str
    make_channel: Callable[[Sandbox, str, float], Channel[Any]]
    """The channel whose messages have this text, with this timeout in seconds."""
    make_unreachable: Callable[[int], Channel[Any]]
    """The channel with its receiver on a closed port."""
    recipient: str
    bad_recipient: str
    faults: Mapping[str, Mapping[str, Any]]
    """The sandbox's rule for each fault."""
    root: str = ""
    """Its path in the sandbox: "" or "/sms"."""
    short_timeout: float = 0.4
    """A timeout in seconds that the rule "slow" exceeds, and a later attempt's does not."""
    requests_per_attempt: int = 1
    """How often one attempt sends; more than once only if the receiver recognizes a repetition by its id."""

    def message(self, attempt: int = 1, recipient: str | None = None, number: int = 7) -> Message:
        return Message(number, self.name, recipient or self.recipient, {}, CREATED, attempt)

    def set_faults(self, sandbox: Sandbox, *kinds: str) -> None:
        rules = [{"times": 1, **self.faults[kind]} for kind in kinds]
        response = sandbox.web.put(f"{self.root}/faults", json=rules)
        assert response.status_code == 200, response.text

    def reset(self, sandbox: Sandbox) -> None:
        self.set_faults(sandbox)
        sandbox.web.delete(f"{self.root}/api/messages").raise_for_status()

    def received_count(self, sandbox: Sandbox) -> int:
        return int(sandbox.get(f"{self.root}/api/count")["count"])

    def last_text(self, sandbox: Sandbox) -> str:
        """The text of the last message received."""
        newest = sandbox.get(f"{self.root}/api/messages", limit=1)["messages"][0]
        if not self.root:
            newest = sandbox.get(f"/api/messages/{newest['id']}")
        return str(newest["text"]).strip()


class WebhookCase(ChannelCase):
    """The sandbox records every request, also those that it refused."""

    def reset(self, sandbox: Sandbox) -> None:
        self.set_faults(sandbox)
        sandbox.web.delete("/webhooks/api/requests").raise_for_status()

    def received_count(self, sandbox: Sandbox) -> int:
        return len(self._accepted_requests(sandbox))

    def last_text(self, sandbox: Sandbox) -> str:
        return str(json.loads(self._accepted_requests(sandbox)[-1]["body"])["data"]["text"])

    def _accepted_requests(self, sandbox: Sandbox) -> list[dict[str, Any]]:
        found = sandbox.get("/webhooks/api/requests", limit=1000)["requests"]
        return [one for one in found if one["status"] == 200]


_HTTP_FAULTS: dict[str, dict[str, Any]] = {
    "busy": {"status": 429, "retry_after": 30},
    "refused": {"status": 400},
    "down": {"status": 503},
    "slow": {"action": "slow", "seconds": 1.5, "after": True},
    "dropped": {"action": "drop"},
    "dropped after": {"action": "drop", "after": True},
}
CHANNEL_CASES = {
    subject.name: subject
    for subject in (
        ChannelCase(
            "email",
            lambda sandbox, text, timeout: email_channel(sandbox.smtp_port, text, timeout_seconds=timeout),
            email_channel,
            "Ann <ann@example.com>",
            "ann at example.com",
            {
                "busy": {"stage": "rcpt", "action": "reply", "reply": "451 4.7.1 slow down, try again in 30 seconds"},
                "refused": {"stage": "rcpt", "action": "reply", "reply": "550 5.1.1 no such user"},
                "down": {"stage": "data", "action": "reply", "reply": "451 4.3.0 try later"},
                "slow": {"stage": "data", "action": "slow", "seconds": 1.5, "after": True},
                "dropped": {"stage": "data", "action": "drop"},
                "dropped after": {"stage": "data", "action": "drop", "after": True},
            },
        ),
        ChannelCase(
            "sms",
            lambda sandbox, text, timeout: sms_channel(sandbox.url("/sms"), text, timeout_seconds=timeout),
            lambda port: sms_channel(f"http://127.0.0.1:{port}"),
            "+4915112345678",
            "0151 12345678",
            _HTTP_FAULTS,
            "/sms",
        ),
        ChannelCase(
            "push",
            lambda sandbox, text, timeout: push_channel(
                sandbox.url("/push"), PushContent("Hello", text), timeout_seconds=timeout
            ),
            lambda port: push_channel(f"http://127.0.0.1:{port}"),
            "device-of-ann",
            "no device",
            _HTTP_FAULTS,
            "/push",
        ),
        WebhookCase(
            "webhook",
            lambda sandbox, text, timeout: webhook_channel(sandbox.url("/webhooks/in/shop"), text, timeout),
            lambda port: webhook_channel(f"http://127.0.0.1:{port}/"),
            ENDPOINT,
            "shop.example",
            {
                "busy": {"status": 429, "retry_after": 30},
                "refused": {"status": 410},  # all that Standard Webhooks has for a refusal for good
                "down": {"status": 503},
                "slow": {"status": 200, "seconds": 1.5},
                "dropped": {"drop": True, "times": 2},
                "dropped after": {"drop": True, "status": 200, "times": 2},
            },
            "/webhooks",
            short_timeout=1.0,
            requests_per_attempt=2,
        ),
    )
}
