"""What jobs reach through Airflow's connections: the email server for alerts, and Airflow's own API."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from email import message_from_bytes, policy
from email.message import EmailMessage

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

from backline.airflow.connections import JobClients
from backline.dead_letters.alerts import Alert
from backline.dead_letters.runs import AirflowRuns
from backline.errors import Misconfigured, NetworkFailure

ALERT = Alert(("ops@example.com",), "[Backline] job failed", "<p>{{ not a template }}</p>")


class Mailbox:
    """Keeps what it receives."""

    def __init__(self) -> None:
        self.received: list[EmailMessage] = []

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802 - aiosmtpd's name
        assert isinstance(envelope.content, bytes)
        self.received.append(message_from_bytes(envelope.content, policy=policy.default))
        return "250 kept"


@pytest.fixture
def mailbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Mailbox]:
    made = Mailbox()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = Controller(made, hostname="127.0.0.1", port=port)
    server.start()
    extra = {"disable_ssl": True, "disable_tls": True}
    connection = {"conn_type": "smtp", "host": "127.0.0.1", "port": port, "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_SMTP_DEFAULT", json.dumps(connection))
    yield made
    server.stop()


def test_an_alert_is_sent_as_it_is(mailbox: Mailbox) -> None:
    sender = JobClients().alert_sender()
    sender.send(ALERT)
    [message] = mailbox.received
    assert (message["To"], message["Subject"]) == ("ops@example.com", ALERT.subject)
    assert (message["Auto-Submitted"], message["Message-ID"].count("@")) == ("auto-generated", 1)
    body = message.get_body(("html",))
    assert body is not None
    assert "{{ not a template }}" in body.get_content()


def test_an_email_server_that_is_not_available_is_a_network_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = {"conn_type": "smtp", "host": "127.0.0.1", "port": 9, "extra": {"disable_ssl": True, "retry_limit": 1}}
    monkeypatch.setenv("AIRFLOW_CONN_SMTP_DEFAULT", json.dumps(connection))
    with pytest.raises(NetworkFailure, match="alert email: "):
        JobClients().alert_sender().send(ALERT)


def test_airflows_api_is_that_of_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_BACKLINE_AIRFLOW", json.dumps({"conn_type": "http", "host": "localhost"}))
    with pytest.raises(Misconfigured, match="needs a host like"), JobClients().airflow_runs():
        pass
    connection = {"conn_type": "http", "host": "http://127.0.0.1:9", "login": "admin", "password": "x"}
    monkeypatch.setenv("AIRFLOW_CONN_BACKLINE_AIRFLOW", json.dumps(connection))
    with JobClients().airflow_runs() as runs:
        assert isinstance(runs, AirflowRuns)
        with pytest.raises(NetworkFailure, match="/auth/token"):
            runs.dag_params("job")
