"""Puts the library's parts together for a task."""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from backline.airflow.connections import app_dsn, http_gateway, smtp_server
from backline.channels.base import Channel
from backline.channels.settings import EmailSettings, PushSettings, SmsSettings
from backline.encryption import Encryptor
from backline.errors import FailureClass, Misconfigured
from backline.outbox.delivery import Delivery, ScheduledRetry, SecretResolver
from backline.settings import RetrySettings, Settings
from backline.webhooks.settings import WebhookSettings

if TYPE_CHECKING:
    from backline.channels.webhook.endpoints import EndpointStore


def create_channel(name: str, config: Settings) -> Channel[Any]:
    """The channel of that name, with its far side's settings from Airflow's connections."""
    # Each in its branch: who sends email does not pay for push.
    if name == "email":
        from backline.channels.email.channel import EmailChannel
        from backline.messages import render_email

        return EmailChannel(
            config.section(EmailSettings), smtp_server(config.section(EmailSettings).connection), render_email
        )
    if name == "sms":
        from backline.channels.sms.channel import SmsChannel
        from backline.messages import render_sms

        return SmsChannel(config.section(SmsSettings), http_gateway(config.section(SmsSettings).connection), render_sms)
    if name == "push":
        from backline.channels.push.channel import PushChannel
        from backline.channels.push.devices import SqlDeviceStore
        from backline.messages import render_push

        return PushChannel(
            config.section(PushSettings),
            http_gateway(config.section(PushSettings).connection),
            render_push,
            SqlDeviceStore(app_dsn),
        )
    if name == "webhook":
        from backline.channels.webhook.channel import WebhookChannel
        from backline.messages import render_webhook

        return WebhookChannel(
            config.section(WebhookSettings), lambda: _create_endpoint_directory(config), render_webhook
        )
    raise Misconfigured(f"channel {name!r} is not known; the lane's channel must be one of: email, sms, push, webhook")


def create_delivery(channel: Channel[Any], config: Settings) -> Delivery[Any]:
    """Tries over this channel, by the settings' retry policies."""
    resolver = SecretResolver(app_dsn, _encryptor)
    return Delivery(channel, _retry_policies(channel.name, config), random.random, resolver)


def _create_endpoint_directory(config: Settings) -> EndpointStore:
    from backline.channels.webhook.endpoints import EndpointStore

    wanted = config.section(WebhookSettings).disable_after_seconds
    return EndpointStore(app_dsn(), _encryptor, disable_after=wanted, recipients=config.alerts.recipients)


def _retry_policies(channel: str, config: Settings) -> Mapping[FailureClass, RetrySettings]:
    """By failure class; a webhook's pauses are the same for each that is tried again."""
    if channel != "webhook":
        return config.retry
    pauses = config.section(WebhookSettings).retry_delays_seconds
    policy = ScheduledRetry(
        schedule=pauses, max_delay_seconds=max(pauses), jitter=config.section(WebhookSettings).retry_jitter
    )
    return dict.fromkeys(config.retry, policy)


@lru_cache(maxsize=1)
def _encryptor() -> Encryptor:
    return Encryptor.from_environment()
