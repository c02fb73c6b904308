"""Puts the library's parts together for a task."""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from backline.airflow.connections import app_dsn, smtp_server
from backline.channels.base import Channel
from backline.channels.email.channel import EmailChannel
from backline.errors import FailureClass, Misconfigured
from backline.messages import render_email, render_webhook
from backline.outbox.delivery import Delivery
from backline.outbox.retry import ScheduledRetry
from backline.outbox.secret_delivery import SecretDelivery, SecretLookup
from backline.sealing import Sealer
from backline.settings import RetrySettings, Settings


def channel_named(name: str, config: Settings) -> Channel[Any]:
    """The channel of that name, with its far side's settings from Airflow's connections."""
    if name == "email":
        return EmailChannel(config.email, smtp_server(config.email.connection), render_email)
    if name == "webhook":
        return _webhook_channel(config)
    raise Misconfigured(f"channel {name!r} is not known; the lane's channel must be: email, webhook")


def delivery_over(channel: Channel[Any], config: Settings) -> Delivery[Any]:
    """Tries over this channel, by the settings' retry policies."""
    return SecretDelivery(channel, _policies(channel.name, config), _sealer, SecretLookup(app_dsn), random.random)


def _webhook_channel(config: Settings) -> Channel[Any]:
    # Late: its HTTP client is not for those who send mail.
    from backline.channels.webhook.channel import WebhookChannel
    from backline.channels.webhook.directory import Directory

    wanted, recipients = config.webhooks, config.alerts.recipients

    def directory() -> Directory:
        return Directory(app_dsn(), _sealer, disable_after=wanted.disable_after_seconds, recipients=recipients)

    return WebhookChannel(wanted, directory, render_webhook)


def _policies(channel: str, config: Settings) -> Mapping[FailureClass, RetrySettings]:
    """By failure class; a webhook's pauses are the same for each that is tried again."""
    if channel != "webhook":
        return config.retry
    pauses = config.webhooks.retry_seconds
    policy = ScheduledRetry(schedule=pauses, cap_seconds=max(pauses), jitter=config.webhooks.retry_jitter)
    return dict.fromkeys(config.retry, policy)


@lru_cache(maxsize=1)
def _sealer() -> Sealer:
    return Sealer.from_environment()
