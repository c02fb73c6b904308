"""Clients and connection strings from Airflow's connections."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from airflow.sdk.bases.hook import BaseHook

from backline.channels.email.settings import EmailSettings
from backline.errors import Misconfigured, NetworkFailure, NotConfigured
from backline.payments.settings import PaymentSettings

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from backline.airflow_api import AirflowClient
    from backline.channels.http import HttpGateway
    from backline.dead_letters.alerts import Alert, AlertSender
    from backline.dead_letters.runs import AirflowRuns
    from backline.payments.provider import Provider
    from smtp_pipeline import SmtpServer

APP_DATABASE = "backline_db"
"""The connection to the app's database, which holds the outbox."""
AIRFLOW_API = "backline_airflow"
"""The connection to Airflow's own REST API, as a user who may read all runs and start them."""


def get_connection(connection_id: str) -> Connection:
    """A connection of Airflow; NotConfigured, with the fix, if there is none of that id."""
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        return BaseHook.get_connection(connection_id)
    except AirflowNotFoundException:
        raise NotConfigured(
            f"connection {connection_id!r} is not configured: set AIRFLOW_CONN_{connection_id.upper()}, or add it in "
            "Airflow under Admin, Connections"
        ) from None


def app_dsn() -> str:
    """The app database's connection string, for psycopg."""
    return connection_dsn(BaseHook.get_connection(APP_DATABASE))


async def app_dsn_async() -> str:
    """`app_dsn` for the triggerer."""
    return connection_dsn(await BaseHook.aget_connection(APP_DATABASE))


def connection_dsn(connection: Connection) -> str:
    """The connection string of a Postgres connection of Airflow; Misconfigured if it is of another type."""
    from psycopg.conninfo import make_conninfo

    if connection.conn_type not in ("postgres", "postgresql"):
        raise Misconfigured(
            f"Airflow connection {connection.conn_id!r} is of type {connection.conn_type!r}; make it a Postgres connection"
        )
    return make_conninfo(
        host=connection.host or None, port=connection.port or None, user=connection.login or None,
        password=connection.password or None, dbname=connection.schema or None,
        **{key: str(value) for key, value in connection.extra_dejson.items()},
    )  # fmt: skip


def connection_password(connection_id: str) -> str:
    """The password of a connection; Misconfigured if the connection or its password does not exist."""
    if password := get_connection(connection_id).password:
        return password
    raise Misconfigured(f"Airflow connection {connection_id!r} has no password; add it")


def airflow_rest() -> AirflowClient:
    """A client of Airflow's REST API, as the user of the connection."""
    return rest_client(BaseHook.get_connection(AIRFLOW_API))


async def airflow_rest_async() -> AirflowClient:
    """`airflow_rest` for the triggerer."""
    return rest_client(await BaseHook.aget_connection(AIRFLOW_API))


def base_url() -> str:
    """The address where people open Airflow."""
    from airflow.sdk.configuration import conf

    return str(conf.get("api", "base_url", fallback="http://localhost:8080")).rstrip("/")


def rest_client(connection: Connection) -> AirflowClient:
    """A client of Airflow's REST API for an HTTP connection; Misconfigured if its host, login or password is missing."""
    from backline.airflow_api import AirflowClient

    host = connection.host or ""
    if not host.startswith(("http://", "https://")) or not connection.login or not connection.password:
        raise Misconfigured(
            f"Airflow connection {connection.conn_id!r} needs a host like http://localhost:8080, a login and a password"
        )
    return AirflowClient(host, connection.login, connection.password)


def smtp_server(connection_id: str) -> SmtpServer:
    """The SMTP server of a connection."""
    from backline.channels.email.server import server_from_connection

    connection = BaseHook.get_connection(connection_id)
    return server_from_connection(
        connection.host, connection.port, connection.login, connection.password, connection.extra_dejson
    )


def http_gateway(connection_id: str) -> HttpGateway:
    """The HTTP gateway of a connection; NotConfigured if the connection does not exist."""
    from backline.channels.http import HttpGateway

    connection = get_connection(connection_id)
    return HttpGateway.from_connection(
        connection_id, host=connection.host, schema=connection.schema, port=connection.port, login=connection.login,
        password=connection.password, extra=connection.extra_dejson,
    )  # fmt: skip


def _send_alert(email: EmailSettings, alert: Alert) -> None:
    """Send an alert through Airflow's SMTP connection; NetworkFailure if that fails."""
    from airflow.providers.smtp.notifications.smtp import SmtpNotifier
    from airflow.sdk.exceptions import AirflowException

    notifier = SmtpNotifier(
        to=list(alert.to), from_email=email.from_address, subject=alert.subject, html_content=alert.html,
        smtp_conn_id=email.connection,
        # The hook sets no Message-ID, by which receivers recognize a repeated email.
        custom_headers={"Message-ID": f"<{uuid.uuid4()}@{email.message_id_domain}>", "Auto-Submitted": "auto-generated"},
    )  # fmt: skip
    try:
        # Calling the notifier itself would render the text, which contains error messages, as a template.
        notifier.notify({})
    except (OSError, AirflowException) as exc:
        raise NetworkFailure(f"alert email: {exc or type(exc).__name__}") from exc


class JobClients:
    """What a job reaches through Airflow's connections: `backline.jobs.job.Clients`."""

    @contextmanager
    def airflow_runs(self) -> Iterator[AirflowRuns]:
        """The runs and DAG files of this Airflow, over its REST API."""
        from backline.dead_letters.runs import AirflowRuns

        with airflow_rest() as api:
            yield AirflowRuns(api, base_url())

    def alert_sender(self) -> AlertSender:
        """Sends alerts by Airflow's SMTP connection to the configured recipients."""
        from backline.dead_letters.alerts import AlertSender
        from backline.settings import settings

        config = settings()
        return AlertSender(config.alerts, base_url(), partial(_send_alert, config.section(EmailSettings)))

    def provider(self, name: str | None = None) -> Provider:
        """The payment provider of that name, or the one that charges; NotConfigured without its connection."""
        from backline.settings import settings

        config = settings().section(PaymentSettings)
        if name == "razorpay":
            from backline.payments.razorpay_client import RazorpayProvider

            if not config.razorpay_connection:
                raise NotConfigured("payments.razorpay_connection names no connection: it is needed for Razorpay's API")
            return RazorpayProvider(http_gateway(config.razorpay_connection), config.timeout_seconds)
        if name not in (None, "stripe"):
            raise Misconfigured(f"provider {name!r} has no API client; use stripe or razorpay")
        from backline.payments.stripe_client import StripeProvider

        return StripeProvider(http_gateway(config.connection), config.timeout_seconds)

    def connection(self, name: str) -> HttpGateway:
        """The HTTP gateway of a connection."""
        return http_gateway(name)
