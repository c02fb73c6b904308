"""Puts the library's parts together for a task."""

from __future__ import annotations

import random
from functools import lru_cache
from typing import Any

from backline.airflow.connections import app_dsn, smtp_server
from backline.channels.base import Channel
from backline.channels.email.channel import EmailChannel
from backline.errors import Misconfigured
from backline.messages import render_email
from backline.outbox.delivery import Delivery
from backline.outbox.secret_delivery import SecretDelivery, SecretLookup
from backline.sealing import Sealer
from backline.settings import Settings


def channel_named(name: str, config: Settings) -> Channel[Any]:
    """The channel of that name, with its far side's settings from Airflow's connections."""
    if name == "email":
        return EmailChannel(config.email, smtp_server(config.email.connection), render_email)
    raise Misconfigured(f"channel {name!r} is not known; the lane's channel must be: email")


def delivery_over(channel: Channel[Any], config: Settings) -> Delivery[Any]:
    """Tries over this channel, by the settings' retry policies."""
    return SecretDelivery(channel, config.retry, _sealer, SecretLookup(app_dsn), random.random)


@lru_cache(maxsize=1)
def _sealer() -> Sealer:
    return Sealer.from_environment()
