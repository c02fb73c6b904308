"""Builds channels and deliveries for tasks, from settings and Airflow's connections."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from backline.airflow import connections
from backline.channels import registry
from backline.channels.base import Channel
from backline.encryption import encryptor
from backline.errors import FailureClass
from backline.messages import renderer
from backline.outbox.delivery import Delivery, SecretResolver
from backline.settings import RetrySettings, ScheduledRetry, Settings


def create_channel(name: str, config: Settings) -> Channel[Any]:
    """The channel of that name; its provider's address and credentials come from Airflow's connections."""
    return registry.definition(name).create(config, connections, renderer(name))


def create_delivery(channel: Channel[Any], config: Settings) -> Delivery[Any]:
    """Delivery over this channel, with the retry policies of the settings."""
    resolver = SecretResolver(connections.app_dsn, encryptor)
    return Delivery(channel, _retry_policies(channel.name, config), random.random, resolver)


def _retry_policies(channel: str, config: Settings) -> Mapping[FailureClass, RetrySettings]:
    """Retry policies by failure class, or the channel's own schedule for each class."""
    if (retry_schedule := registry.definition(channel).retry_schedule) is None:
        return config.retry
    delays, jitter = retry_schedule(config)
    policy = ScheduledRetry(schedule=tuple(delays), max_delay_seconds=max(delays), jitter=jitter)
    return dict.fromkeys(config.retry, policy)
