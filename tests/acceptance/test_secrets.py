"""A secret reaches the recipient and is not visible in Airflow."""

from __future__ import annotations

import io
import json
import subprocess
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import psycopg
import pytest
from rich.console import Console

from backline.encryption import Encryptor
from backline.errors import Rejected
from demo import commerce, failures, faults, health, http_api, send_runs, webhooks
from demo import secrets as demo_secrets
from demo.check import Check
from demo.context import DemoContext
from demo.run import run_checks
from demo.table import CheckTable
from stack.reference_app import apply_schema
from stack.secrets import Secrets
from stack.supervisor import SERVICES
from tests.acceptance.isolated_stack import IsolatedStack
from tests.acceptance.leaks import CommandLines, find_in_databases, find_in_environments, find_in_files
from tests.integration.identity import add_token

pytestmark = pytest.mark.stack
TOKEN = "s3cret-token-that-nobody-may-see"
LINK = f"http://localhost:8080/reset-password?token={TOKEN}"


CODE = "QX7K2M9Z4WPT"
MISSPELT = "misspelt-keys-secret-4711"
CLEAR = "plaintext-under-its-own-key-4711"
REFUSED = "plaintext-refused-by-sql-4711"
AddToken = Callable[[str], int]


@pytest.fixture
def token(stack_exports: dict[str, str]) -> AddToken:
    """Adds a token of the app, encrypted with the stack's key, for the person with an address."""
    apply_schema(stack_exports["BACKLINE_DATABASE_URL"])

    def add(email: str) -> int:
        with psycopg.connect(stack_exports["BACKLINE_DATABASE_URL"], autocommit=True) as connection:
            encrypted = Encryptor([stack_exports["BACKLINE_FERNET_KEYS"]]).encrypt(TOKEN)
            return add_token(connection, encrypted, email=email)

    return add


def test_a_run_with_a_reference_shows_the_secret_only_to_the_recipient(
    context: DemoContext, stack: IsolatedStack, stack_exports: dict[str, str], token: AddToken
) -> None:
    run_id, recipient = context.run_id("reset"), f"ann@{context.domain('reset')}"
    conf = {"to": recipient, "name": "Ann", "token": {"$ref": "password_reset_token", "id": token(recipient)}}
    run = context.airflow.trigger("send_password_reset", conf, run_id)
    ended = context.airflow.wait("send_password_reset", run_id, 90)
    log = context.airflow.log("send_password_reset", run_id, "send")
    assert ended["state"] == "success", log
    (arrival,) = context.emails_at(context.domain("reset"))
    email = context.mail.get_email(arrival.id)
    assert LINK in email.text
    assert LINK in email.html

    result = context.airflow.xcom("send_password_reset", run_id, "send")
    with psycopg.connect(stack_exports["BACKLINE_DATABASE_URL"]) as connection:
        rows = connection.execute(
            "SELECT m.payload, m::text, a.response, a::text FROM backline.message AS m"
            " JOIN backline.attempt AS a ON a.message_id = m.id WHERE m.id = %s", (result["message_id"],)
        ).fetchall()  # fmt: skip
    [(payload, message, response, attempt)] = rows
    assert payload == {"name": "Ann"}
    assert response is None
    for place in (run, ended, log, result, message, attempt):
        assert TOKEN not in json.dumps(place)
    assert files_with(TOKEN, stack.home / "airflow") == []


def test_an_unresolvable_reference_fails_the_run_and_is_named(context: DemoContext) -> None:
    run_id = context.run_id("nothing")
    conf = {"to": f"ann@{context.domain('nothing')}", "name": "Ann", "token": {"$ref": "password_reset_token", "id": 0}}
    context.airflow.trigger("send_password_reset", conf, run_id)
    assert context.airflow.wait("send_password_reset", run_id, 90)["state"] == "failed"
    log = context.airflow.log("send_password_reset", run_id, "send")
    assert "validation: token: password_reset_token with id 0 gives nothing" in log.replace("\\", "")
    assert context.emails_at(context.domain("nothing")) == []


def test_the_command_sends_and_the_secret_is_only_in_the_email(
    context: DemoContext, stack: IsolatedStack, tmp_path: Path
) -> None:
    secret = tmp_path / "token"
    secret.write_text(TOKEN)
    done = stack.run(
        "send", "password_reset", "--to", f"ann@{context.domain('command')}", "--set", "name=Ann",
        "--set", f"token=@{secret}", "--json",
    )  # fmt: skip
    (arrival,) = context.wait_for_emails(context.domain("command"), 1)
    assert LINK in context.mail.get_email(arrival.id).text
    assert context.message_status(json.loads(done.stdout)["id"])["recipient"] == f"ann@{context.domain('command')}"
    assert TOKEN not in done.stdout + done.stderr


def short_flow() -> list[Check]:
    return [health.health_check(), demo_secrets.secret_reference_check(), faults.permanent_fault_check()]


def whole_flow() -> list[Check]:
    """What the demo shows, but for what needs a restart."""
    return [
        *short_flow(), *send_runs.checks(), webhooks.signed_event_check(), *http_api.checks(), *commerce.checks(),
        *failures.checks(),
    ]  # fmt: skip


@pytest.mark.timeout(600)
@pytest.mark.parametrize("flow", [short_flow, pytest.param(whole_flow, marks=pytest.mark.extended)])
def test_no_secret_is_left_anywhere(
    context: DemoContext,
    stack: IsolatedStack,
    stack_exports: dict[str, str],
    token: AddToken,
    flow: Callable[[], list[Check]],
) -> None:
    """Secrets of every kind are planted or known, the demo's checks run, and then everything stored or shown is searched."""
    own, cluster = context.stack, context.stack.cluster
    stack_secrets = {item.name: getattr(own.secrets, item.name) for item in fields(Secrets) if not item.repr}
    assert len(stack_secrets) >= 14
    hook = f"{stack_exports['BACKLINE_WEBHOOK_URL']}/leak"
    endpoint = json.loads(stack.run("webhooks", "add", hook, "--event", "leak", "--json").stdout)
    assert [*context.airflow.dags(limit=1)]  # logs in
    planted = {
        "payload token": TOKEN, "payload code": CODE, "misspelt key": MISSPELT, "plaintext in conf": CLEAR,
        "plaintext in SQL": REFUSED,
        "webhook endpoint": endpoint["secret"], "API token": str(context.airflow._token).rpartition(".")[2],
    }  # fmt: skip
    secrets = {**stack_secrets, **planted}
    output = io.StringIO()
    with CommandLines(secrets) as lines:
        send_secrets(context, stack_exports, token)
        passed = run_checks(context, checks := flow(), CheckTable(Console(file=output, width=200)))
        printed = output.getvalue() + "".join(stack.run(*command).stdout for command in COMMANDS)
    assert passed == len(checks), output.getvalue()

    folders = (stack.home, cluster.runtime_folder, cluster.socket_folder, cluster.data_folder())
    in_files, mailbox = find_in_files(folders, secrets), str(stack.home / "mail")
    in_environments = find_in_environments(own.supervisor.stack_id, secrets)
    # The searches find what is there.
    known = {"known": f"ann@{context.domain('leak')}"}
    assert {place for _, place in find_in_databases(cluster, known)} >= {
        "airflow: public.dag_run", "airflow: public.log", "backline: app.users",
    }  # fmt: skip
    assert find_in_files([stack.home / "mail"], known)
    assert any("airflow scheduler" in line for line in lines.seen)
    assert {
        "files": {
            (name, path) for name, path in in_files if not (name == "payload token" and path.startswith(mailbox))
        },
        "files that others can read": {path for _, path in in_files if Path(path).stat().st_mode & 0o077},
        "tables": find_in_databases(cluster, secrets),
        "command lines": lines.found,
        "payloads in environments": {name for name, _ in in_environments} & set(planted),
        "services with secrets": {service for _, service in in_environments},
        "printed": {name for name, secret in secrets.items() if secret in printed},
    } == {
        "files": {
            *((name, str(own.paths.secrets_file)) for name in stack_secrets),
            *((f"{user}_password", str(own.paths.password_file)) for user in ("admin", "op", "viewer")),
        },
        "files that others can read": set(),
        "tables": set(),
        "command lines": set(),
        "payloads in environments": set(),
        "services with secrets": {"", *SERVICES} - {"postgres"},
        "printed": set(),
    }
    stack.run("webhooks", "delete", endpoint["id"], "--yes")


def test_passwords_are_printed_once(started: tuple[IsolatedStack, str], context: DemoContext) -> None:
    copy, first = started
    logins = (context.stack.secrets.admin_password, context.stack.secrets.sandbox_password)
    assert [first.count(password) for password in logins] == [1, 1]
    for command in ("up", "setup"):
        later = copy.run(command).stdout
        assert [later.count(password) for password in logins] == [0, 0]
    assert str(copy.home / "secrets.env") in copy.run("up").stdout


COMMANDS = (["up"], ["status"], ["health"], ["failures"], ["webhooks", "list"], ["logs", "--lines", "100000"])


def send_secrets(context: DemoContext, exports: dict[str, str], token: AddToken) -> None:
    """Each way in which a secret reaches Backline: those that are taken arrive, the others are refused."""
    recipient = f"ann@{context.domain('leak')}"
    conf = {"to": recipient, "name": "Ann", "token": {"$ref": "password_reset_token", "id": token(recipient)}}
    context.airflow.trigger("send_password_reset", conf, context.run_id("leak"))
    code = Encryptor([exports["BACKLINE_FERNET_KEYS"]]).encrypt(CODE)
    context.airflow.trigger("send_mfa_code", {"to": "+4915100004711", "code": code}, context.run_id("leak-code"))
    for wrong in ({"tokn": MISSPELT}, {"token": CLEAR}):
        with pytest.raises(Rejected) as rejected:
            context.airflow.trigger(
                "send_password_reset", {**conf, **wrong}, context.run_id(f"leak-{next(iter(wrong))}")
            )
        assert rejected.value.code == "400"
        assert not {MISSPELT, CLEAR} & {*rejected.value.response.split('"')}
    # A literal in the statement, a parameter in an error's detail, and one in its context.
    call = "SELECT backline.enqueue('mfa_code', '+4915100004711', %s)"
    for payload in (json.dumps({"code": REFUSED}), f'{{"code": "{REFUSED}"', f"{REFUSED}"):
        for cursor in (psycopg.Cursor, psycopg.ClientCursor):
            with (
                psycopg.connect(exports["BACKLINE_DATABASE_URL"]) as connection,
                pytest.raises(psycopg.DataError),
            ):
                cursor(connection).execute(call, [payload])
    for dag_id, name in (("send_password_reset", "leak"), ("send_mfa_code", "leak-code")):
        assert context.airflow.wait(dag_id, context.run_id(name), 90)["state"] == "success"
    assert TOKEN in context.mail.get_email(context.emails_at(context.domain("leak"))[0].id).text
    [sms] = context.gateways.received("sms", "+4915100004711", context.since)
    assert CODE in sms["text"]


def files_with(text: str, folder: Path) -> list[str]:
    """Airflow's logs and other files that contain a text."""
    found = subprocess.run(["grep", "-rlF", text, str(folder)], check=False, capture_output=True, text=True)
    assert found.returncode in {0, 1}, found.stderr
    return found.stdout.splitlines()
