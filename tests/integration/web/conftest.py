"""The real app behind Airflow's real login, on a real database."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import DictRow, dict_row

# Before Airflow is imported. `./backline test` has set these; a plain pytest must not touch the home of whoever runs it.
_home = tempfile.mkdtemp(prefix="backline-airflow-")
atexit.register(shutil.rmtree, _home, ignore_errors=True)
os.environ.setdefault("AIRFLOW_HOME", _home)
os.environ.setdefault("AIRFLOW__DATABASE__SQL_ALCHEMY_CONN", f"sqlite:///{_home}/airflow.db")

from airflow.api_fastapi.app import init_auth_manager  # noqa: E402
from airflow.api_fastapi.auth.managers.simple.user import SimpleAuthManagerUser  # noqa: E402
from airflow.api_fastapi.core_api.app import init_middlewares  # noqa: E402
from airflow.models import import_all_models  # noqa: E402
from airflow.models.base import Base  # noqa: E402
from airflow.models.revoked_token import RevokedToken  # noqa: E402
from airflow.utils.session import create_session  # noqa: E402
from cryptography.fernet import Fernet  # noqa: E402
from fastapi import FastAPI  # noqa: E402
from fastapi.testclient import TestClient  # noqa: E402
from httpx import Response  # noqa: E402

from backline.delivery_events import ses  # noqa: E402
from backline.encryption import encryptor  # noqa: E402
from backline.messages.sync import sync_types  # noqa: E402
from backline.web import hooks  # noqa: E402
from backline.web.app import create_app  # noqa: E402
from backline.web.settings import HookSettings  # noqa: E402
from backline.web.urls import PREFIX  # noqa: E402
from tests.integration.conftest import create, drop  # noqa: E402
from tests.unit.delivery_events.fake_sns import TOPIC, FakeSns  # noqa: E402
from tests.unit.delivery_events.test_providers import PUBLIC  # noqa: E402
from tests.unit.payments.signing import RAZORPAY_SECRET, STRIPE_SECRET  # noqa: E402

ROLES = ("viewer", "user", "op", "admin")
API = f"{PREFIX}/api/v1"
FERNET_KEY = Fernet.generate_key().decode()


NOW = datetime.now(UTC)
SNS = FakeSns(NOW)
OPEN = HookSettings(
    ses_topic_arns=(TOPIC,), sendgrid_public_key=PUBLIC, mailgun_connection="mailgun_hooks", twilio_connection="twilio_hooks",
    stripe_connection="stripe_hooks", razorpay_connection="razorpay_hooks",
)  # fmt: skip
SECRETS = {"mailgun": "signing-key", "twilio": "auth-token", "stripe": STRIPE_SECRET, "razorpay": RAZORPAY_SECRET}


@dataclass
class Api:
    """The app for HTTP callers, and its database."""

    app: FastAPI
    client: TestClient
    tokens: dict[str, str]
    connection: psycopg.Connection[DictRow]

    def call(self, method: str, path: str, role: str | None = "op", **options: Any) -> Response:
        """One request; `path` from the API's version on, or whole if it begins with the prefix."""
        headers = options.pop("headers", {})
        if role is not None:
            headers = {"Authorization": f"Bearer {self.tokens[role]}", **headers}
        url = path if path.startswith(PREFIX) else f"{API}/{path}"
        response: Response = self.client.request(method, url, headers=headers, **options)
        return response

    def post(self, path: str, body: Any = None, role: str | None = "op", **options: Any) -> Response:
        return self.call("POST", path, role, **({} if body is None else {"json": body}), **options)

    def get(self, path: str, role: str | None = "viewer", **options: Any) -> Response:
        return self.call("GET", path, role, **options)

    def sql(self, query: Any, *params: Any) -> list[DictRow]:
        cursor = self.connection.execute(query, params or None)
        return cursor.fetchall() if cursor.description else []


def email(recipient: str = "ann@example.com", **fields: Any) -> dict[str, Any]:
    """The body of one message."""
    return {"type": "email", "to": recipient, "payload": {"subject": "Hello", "text": "Hi"}, **fields}


def connection_json(dsn: str) -> str:
    """A database as an Airflow connection."""
    parts = conninfo_to_dict(dsn)
    return json.dumps({
        "conn_type": "postgres", "host": parts.get("host"), "port": parts.get("port"), "login": parts.get("user"),
        "password": parts.get("password"), "schema": parts.get("dbname"),
    })  # fmt: skip


@pytest.fixture(scope="session")
def tokens() -> dict[str, str]:
    """An Airflow token for each role."""
    with create_session() as session:  # where logged out tokens are looked for
        RevokedToken.__table__.create(session.connection(), checkfirst=True)
    manager = init_auth_manager()
    return {role: manager.generate_jwt(SimpleAuthManagerUser(username=f"{role}-1", role=role)) for role in ROLES}


@pytest.fixture(scope="session")
def airflow_tables(tokens: dict[str, str]) -> None:
    """Airflow's tables, empty."""
    assert tokens  # has set up the auth manager
    import_all_models()  # type: ignore[no-untyped-call]
    with create_session() as session:
        Base.metadata.create_all(session.connection(), checkfirst=True)


@pytest.fixture(scope="session")
def shared_database(server: str, template: str) -> Iterator[str]:
    """A migrated database for tests that only write rows."""
    name = f"backline_web_{uuid.uuid4().hex[:12]}"
    create(server, name, template)
    yield make_conninfo(server, dbname=name)
    drop(server, name)


@pytest.fixture
def make_api(
    shared_database: str, tokens: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Api]]:
    """Creates the app, mounted as Airflow mounts it."""
    made: list[Api] = []

    def make(dsn: str = shared_database) -> Api:
        monkeypatch.setenv("AIRFLOW_CONN_BACKLINE_DB", connection_json(dsn))
        monkeypatch.setenv("BACKLINE_FERNET_KEYS", FERNET_KEY)
        encryptor.cache_clear()
        app = create_app()
        root = FastAPI()
        root.mount(PREFIX, app)
        init_middlewares(root)
        client = TestClient(root, raise_server_exceptions=True)
        connection = psycopg.connect(shared_database, autocommit=True, row_factory=dict_row)
        made.append(Api(app, client, tokens, connection))
        return made[-1]

    yield make
    for api in made:
        api.app.state.connections.close()
        api.connection.close()


@pytest.fixture
def api(make_api: Callable[..., Api]) -> Api:
    """The app on an empty database."""
    made = make_api()
    made.sql(
        "TRUNCATE backline.message, backline.attempt, backline.idempotency, backline.audit_trail, backline.suppression,"
        " backline.opt_out, backline.recipient_preference, backline.delivery_event, backline.webhook_endpoint RESTART IDENTITY CASCADE"
    )
    made.sql("ALTER SEQUENCE backline.message_id RESTART")
    sync_types(made.connection)
    return made


@pytest.fixture
def open_api(api: Api, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """All hooks are open."""
    for name, secret in SECRETS.items():
        monkeypatch.setenv(f"AIRFLOW_CONN_{name.upper()}_HOOKS", json.dumps({"conn_type": "http", "password": secret}))
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://mail.shop.example/")
    api.app.state.hooks = OPEN
    api.app.dependency_overrides[hooks.certificate_cache] = lambda: ses.CertificateCache(SNS.fetch)
    yield api
    api.app.dependency_overrides.clear()
    api.sql("TRUNCATE app.payment_events")
