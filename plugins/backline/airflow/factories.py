"""Builds channels and deliveries for tasks, from settings and Airflow's connections."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from backline.airflow.connections import app_dsn, http_gateway, smtp_server
from backline.channels.base import Channel
from backline.channels.settings import EmailSettings, PushSettings, SmsSettings, WebhookSettings
from backline.encryption import encryptor
from backline.errors import FailureClass, Misconfigured
from backline.outbox.delivery import Delivery, ScheduledRetry, SecretResolver
from backline.settings import RetrySettings, Settings

if TYPE_CHECKING:
    from backline.channels.webhook.endpoints import EndpointStore


def create_channel(name: str, config: Settings) -> Channel[Any]:
    """The channel of that name; its provider's address and credentials come from Airflow's connections."""
    # Imports stand in the branches: a task that sends email does not load push.
    if name == "email":
        from backline.channels.email.channel import EmailChannel
        from backline.messages import render_email

        email = config.section(EmailSettings)
        return EmailChannel(email, smtp_server(email.connection), render_email)
    if name == "sms":
        from backline.channels.sms.channel import SmsChannel
        from backline.messages import render_sms

        sms = config.section(SmsSettings)
        return SmsChannel(sms, http_gateway(sms.connection), render_sms)
    if name == "push":
        from backline.channels.push.channel import DeviceStore, PushChannel
        from backline.messages import render_push

        push = config.section(PushSettings)
        return PushChannel(push, http_gateway(push.connection), render_push, DeviceStore(app_dsn))
    if name == "webhook":
        from backline.channels.webhook.channel import WebhookChannel
        from backline.messages import render_webhook

        webhooks = config.section(WebhookSettings)
        return WebhookChannel(webhooks, lambda: _create_endpoint_directory(config), render_webhook)
    raise Misconfigured(f"channel {name!r} is not known; the lane's channel must be one of: email, sms, push, webhook")


def create_delivery(channel: Channel[Any], config: Settings) -> Delivery[Any]:
    """Delivery over this channel, with the retry policies of the settings."""
    resolver = SecretResolver(app_dsn, encryptor)
    return Delivery(channel, _retry_policies(channel.name, config), random.random, resolver)


def _create_endpoint_directory(config: Settings) -> EndpointStore:
    from backline.channels.webhook.endpoints import EndpointStore

    disable_after = config.section(WebhookSettings).disable_after_seconds
    return EndpointStore(app_dsn(), encryptor, disable_after=disable_after, recipients=config.alerts.recipients)


def _retry_policies(channel: str, config: Settings) -> Mapping[FailureClass, RetrySettings]:
    """Retry policies by failure class; those of webhooks all follow one schedule."""
    if channel != "webhook":
        return config.retry
    webhooks = config.section(WebhookSettings)
    delays = webhooks.retry_delays_seconds
    policy = ScheduledRetry(schedule=delays, max_delay_seconds=max(delays), jitter=webhooks.retry_jitter)
    return dict.fromkeys(config.retry, policy)
