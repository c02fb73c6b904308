"""A secret reaches the recipient and is not visible in Airflow."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import psycopg
import pytest

from backline.encryption import Encryptor
from backline.errors import Rejected
from demo.context import DemoContext
from stack.reference_app import apply_schema
from tests.acceptance.isolated_stack import IsolatedStack
from tests.integration.identity import add_token

pytestmark = pytest.mark.stack
TOKEN = "s3cret-token-that-nobody-may-see"
LINK = f"http://localhost:8080/reset-password?token={TOKEN}"


@pytest.fixture
def token(stack_exports: dict[str, str]) -> int:
    """A token of the app, encrypted with the stack's key."""
    apply_schema(stack_exports["BACKLINE_DATABASE_URL"])
    with psycopg.connect(stack_exports["BACKLINE_DATABASE_URL"], autocommit=True) as connection:
        return add_token(connection, Encryptor([stack_exports["BACKLINE_FERNET_KEYS"]]).encrypt(TOKEN))


def test_a_run_with_a_reference_shows_the_secret_only_to_the_recipient(
    context: DemoContext, stack: IsolatedStack, stack_exports: dict[str, str], token: int
) -> None:
    run_id, recipient = context.run_id("reset"), f"ann@{context.domain('reset')}"
    conf = {"to": recipient, "name": "Ann", "token": {"$ref": "password_reset_token", "id": token}}
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


def test_a_plaintext_secret_is_rejected_before_it_is_stored(context: DemoContext, stack: IsolatedStack) -> None:
    conf = {"to": f"ann@{context.domain('clear')}", "name": "Ann", "token": TOKEN}
    with pytest.raises(Rejected) as rejected:
        context.airflow.trigger("send_password_reset", conf, context.run_id("clear"))
    assert rejected.value.code == "400"
    assert "Invalid input for param token" in rejected.value.response
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


def files_with(text: str, folder: Path) -> list[str]:
    """Airflow's logs and other files that contain a text."""
    found = subprocess.run(["grep", "-rlF", text, str(folder)], check=False, capture_output=True, text=True)
    assert found.returncode in {0, 1}, found.stderr
    return found.stdout.splitlines()
