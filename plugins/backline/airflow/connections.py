"""Airflow's connections, as the library wants them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk.bases.hook import BaseHook

from backline.errors import Misconfigured, NotConfigured
from backline.payments.settings import PaymentSettings

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from backline.airflow.rest import AirflowRest
    from backline.channels.email.server import SmtpServer
    from backline.channels.http.gateway import HttpGateway
    from backline.payments.provider import Provider

APP_DATABASE = "backline_db"
"""The connection to the app's database, where the outbox lives."""
AIRFLOW_API = "backline_airflow"
"""The connection to Airflow's own REST API, as a user who may see all runs and start them."""


def app_dsn() -> str:
    """The app database's connection string, for psycopg."""
    return connection_dsn(BaseHook.get_connection(APP_DATABASE))


async def app_dsn_async() -> str:
    """As `app_dsn`, for the triggerer."""
    return connection_dsn(await BaseHook.aget_connection(APP_DATABASE))


def connection_dsn(connection: Connection) -> str:
    """A Postgres connection of Airflow's as a connection string; Misconfigured if it is of another kind."""
    from psycopg.conninfo import make_conninfo

    if connection.conn_type not in ("postgres", "postgresql"):
        raise Misconfigured(
            f"Airflow connection {connection.conn_id!r} is of type {connection.conn_type!r}; make it a Postgres connection"
        )
    return make_conninfo(
        host=connection.host or None,
        port=connection.port or None,
        user=connection.login or None,
        password=connection.password or None,
        dbname=connection.schema or None,
        **{key: str(value) for key, value in connection.extra_dejson.items()},
    )


def connection_password(connection_id: str) -> str:
    """The password of a connection; Misconfigured if it has none, or is not there."""
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        found = BaseHook.get_connection(connection_id).password
    except AirflowNotFoundException:
        found = None
    if not found:
        raise Misconfigured(f"Airflow connection {connection_id!r} is not there or has no password; give it one")
    return found


def airflow_rest() -> AirflowRest:
    """Airflow's REST API as the user of the connection."""
    return rest_client(BaseHook.get_connection(AIRFLOW_API))


async def airflow_rest_async() -> AirflowRest:
    """As `airflow_rest`, for the triggerer."""
    return rest_client(await BaseHook.aget_connection(AIRFLOW_API))


def base_url() -> str:
    """Where people open Airflow."""
    from airflow.sdk.configuration import conf

    return str(conf.get("api", "base_url", fallback="http://localhost:8080")).rstrip("/")


def rest_client(connection: Connection) -> AirflowRest:
    """An HTTP connection of Airflow's as a client of its API; Misconfigured if it lacks something."""
    from backline.airflow.rest import AirflowRest

    host = connection.host or ""
    if not host.startswith(("http://", "https://")) or not connection.login or not connection.password:
        raise Misconfigured(
            f"Airflow connection {connection.conn_id!r} needs a host like http://localhost:8080, a login and a password"
        )
    return AirflowRest(host, connection.login, connection.password)


def smtp_server(connection_id: str) -> SmtpServer:
    """The SMTP server of a connection."""
    from backline.channels.email.server import SmtpServer

    connection = BaseHook.get_connection(connection_id)
    return SmtpServer.from_connection(
        connection.host, connection.port, connection.login, connection.password, connection.extra_dejson
    )


def http_gateway(connection_id: str) -> HttpGateway:
    """The HTTP gateway of a connection; NotConfigured if there is no such connection."""
    from airflow.sdk.exceptions import AirflowNotFoundException

    from backline.channels.http.gateway import HttpGateway

    try:
        connection = BaseHook.get_connection(connection_id)
    except AirflowNotFoundException:
        raise NotConfigured(
            f"connection {connection_id!r} is not configured: set AIRFLOW_CONN_{connection_id.upper()}, or add it in "
            "Airflow under Admin, Connections (docs/messages.md says what it needs)"
        ) from None
    return HttpGateway.from_connection(
        connection_id,
        host=connection.host,
        schema=connection.schema,
        port=connection.port,
        login=connection.login,
        password=connection.password,
        extra=connection.extra_dejson,
    )


class JobClients:
    """What a job reaches by Airflow's connections: `backline.jobs.job.Clients`."""

    def provider(self, name: str | None = None) -> Provider:
        """The payment provider; NotConfigured without its connection, Misconfigured for one that has no API client."""
        from backline.payments.stripe_client import StripeProvider
        from backline.settings import settings

        config = settings().section(PaymentSettings)
        if name not in (None, "stripe"):
            raise Misconfigured(f"provider {name!r} has no API client; use stripe")
        return StripeProvider(http_gateway(config.connection), config.timeout_seconds)

    def connection(self, name: str) -> HttpGateway:
        """The HTTP gateway of a connection."""
        return http_gateway(name)
