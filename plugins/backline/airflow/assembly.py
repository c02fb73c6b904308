"""Puts the library's parts together for a task."""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from backline.airflow.connections import smtp_server
from backline.channels.base import Channel
from backline.channels.email.channel import EmailChannel
from backline.errors import Misconfigured
from backline.messages import registry, render_email
from backline.outbox.delivery import Delivery
from backline.sealing import Sealer
from backline.settings import Settings


def channel_named(name: str, config: Settings) -> Channel[Any]:
    """The channel of that name, with its far side's settings from Airflow's connections."""
    if name == "email":
        return EmailChannel(config.email, smtp_server(config.email.connection), render_email)
    raise Misconfigured(f"channel {name!r} is not known; the lane's channel must be: email")


def delivery_over(channel: Channel[Any], config: Settings) -> Delivery[Any]:
    """Tries over this channel, by the settings' retry policies."""
    return Delivery(channel, config.retry, _open_payload, random.random)


@lru_cache(maxsize=1)
def _sealer() -> Sealer:
    return Sealer.from_environment()


def _open_payload(type_name: str, payload: Mapping[str, Any]) -> Mapping[str, Any]:
    secret_fields = registry.get(type_name).secret_fields
    return _sealer().open_payload(secret_fields, payload) if secret_fields else payload
