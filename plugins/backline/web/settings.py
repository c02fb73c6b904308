"""The settings of the HTTP API and of provider hooks: sections [http] and [hooks] of backline.toml."""

from __future__ import annotations

from pydantic import Field

from backline.settings.base import Section, register


@register("hooks")
class HookSettings(Section):
    """Access of providers to the hooks; a hook whose setting is empty is disabled."""

    ses_topic_arns: tuple[str, ...] = ()
    sendgrid_public_key: str = ""
    mailgun_connection: str = ""
    twilio_connection: str = ""
    stripe_connection: str = ""
    razorpay_connection: str = ""


@register("http")
class HttpSettings(Section):
    """The HTTP API in Airflow's api-server."""

    max_body_mib: float = Field(32.0, gt=0, le=1024)
    max_bodies_mib: float = Field(96.0, ge=1, le=16_384)
    body_timeout_seconds: float = Field(20.0, gt=0, le=600)
    max_concurrent_requests: int = Field(16, ge=1, le=32)
    max_db_connections: int = Field(4, ge=1, le=64)
    pool_timeout_seconds: float = Field(5.0, gt=0, le=60)
    lock_timeout_seconds: float = Field(0.2, ge=0.001, le=60)
    search_timeout_seconds: float = Field(5.0, gt=0, le=60)
