"""Executes docs/adopting.md block by block, on a database with other table names."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, LiteralString
from urllib.parse import quote

import psycopg
import pytest
from aiosmtpd.smtp import SMTP, Envelope
from cryptography.fernet import Fernet
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import dict_row

from backline.db.statements import statement, statements
from backline.settings import ROOT, settings
from tests.integration.airflow import run_dags
from tests.integration.channels.servers import Mailbox
from tests.integration.conftest import create, drop

PAGE = ROOT / "docs" / "adopting.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
ADDRESS = "postgresql://backline:change-me@localhost/crm"
TABLES: LiteralString = """
CREATE SCHEMA crm AUTHORIZATION crm_owner;
SET ROLE crm_owner;
CREATE TABLE crm.people (
    person_no integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, mail_address text NOT NULL, full_name text NOT NULL,
    locale text NOT NULL DEFAULT 'de', tz text NOT NULL DEFAULT 'Europe/Berlin', staff_rank integer NOT NULL DEFAULT 0, left_on date,
    mobile text, salary integer);
CREATE TABLE crm.reset_links (
    link_no integer PRIMARY KEY, encrypted text, purpose text NOT NULL, good_until timestamptz NOT NULL, used_on timestamptz,
    person_no integer NOT NULL DEFAULT 1 REFERENCES crm.people);
CREATE TABLE crm.devices (
    token text PRIMARY KEY, person_no integer NOT NULL REFERENCES crm.people, gone_on date, gone_why text);
INSERT INTO crm.people (mail_address, full_name, staff_rank, left_on) VALUES
    ('head@example.com', 'Head', 9, NULL), ('gone@example.com', 'Gone', 9, '2026-01-01'), ('clerk@example.com', 'Clerk', 1, NULL);
UPDATE crm.people SET mobile = '+4915112345678' WHERE person_no = 1;
INSERT INTO crm.reset_links VALUES
    (1, 'gAAAA-reset', 'reset', clock_timestamp() + interval '1 hour', NULL), (2, 'gAAAA-late', 'reset', clock_timestamp() - interval '1 hour', NULL),
    (3, 'gAAAA-used', 'reset', clock_timestamp() + interval '1 hour', clock_timestamp()), (4, 'gAAAA-verify', 'verify', clock_timestamp() + interval '1 hour', NULL),
    (6, 'gAAAA-code', 'sign-in', clock_timestamp() + interval '5 minutes', NULL);
INSERT INTO crm.devices (token, person_no, gone_on) VALUES ('phone', 1, NULL), ('tablet', 1, NULL), ('lost', 1, '2026-01-01'), ('other', 3, NULL);
GRANT USAGE ON SCHEMA crm TO crm_app;
GRANT SELECT, INSERT ON crm.people TO crm_app;
RESET ROLE;
"""


def blocks() -> list[tuple[str, str]]:
    """Language and text of the page's code blocks, in order."""
    return [(match[1], match[2]) for match in BLOCK.finditer(PAGE.read_text(encoding="utf-8"))]


@dataclass
class Reader:
    """Follows the page: the database's roles with their addresses, and a shell that keeps its variables."""

    addresses: dict[str, str]
    variables: dict[str, str]
    outputs: list[str] = field(default_factory=list)
    rows: list[list[dict[str, Any]]] = field(default_factory=list)

    def follow(self, language: str, text: str) -> None:
        """Execute one block."""
        if language == "sql":
            who, _, query = text.partition("\n")
            self.rows.append(self.query(who.removeprefix("-- As ").strip(), query))
        elif language == "sh":
            self.shell(text.replace(ADDRESS, self.addresses["Backline's role"]))
        elif language == "python" and "django" not in text:
            self.run([sys.executable, "-c", text])
        elif language == "python":
            ast.parse(text)  # Django is not among the libraries

    def query(self, who: str, query: str) -> list[dict[str, Any]]:
        """Execute statements as one of the page's roles; returns the rows of the last one that has any."""
        with psycopg.connect(self.addresses[who], autocommit=True, row_factory=dict_row) as connection:
            cursor = connection.execute(query)
            found: list[dict[str, Any]] = []
            while True:
                if cursor.description:
                    found = cursor.fetchall()
                if not cursor.nextset():
                    return found

    def shell(self, text: str) -> None:
        """Execute one shell block in the project's folder; its exports are kept for the next."""
        done = self.run(["sh", "-eu", "-c", f"{text}\nprintf '%s\\0' ---; env -0"])
        output, _, after = done.partition("---\0")
        self.outputs.append(output)
        self.variables = dict(entry.split("=", 1) for entry in after.split("\0") if "=" in entry)

    def run(self, command: list[str]) -> str:
        done = subprocess.run(
            command, check=False, cwd=ROOT, env=self.variables, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, f"{command[-1]}\n{done.stdout}\n{done.stderr}"
        return done.stdout


@pytest.fixture(scope="module")
def reader(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reader]:
    """A CRM on which no block has been executed."""
    with psycopg.connect(server, autocommit=True) as connection:
        if connection.execute("SELECT FROM pg_roles WHERE rolname IN ('backline', 'crm_app', 'crm_owner')").fetchone():
            pytest.skip("the server already has the page's roles")
        connection.execute("CREATE ROLE crm_owner LOGIN PASSWORD 'owner'")
        connection.execute("CREATE ROLE crm_app LOGIN PASSWORD 'app'")
    create(server, "crm_of_the_page")
    base = conninfo_to_dict(server)

    def address(role: str, password: str) -> str:
        host = quote(str(base["host"]), safe="")
        return f"postgresql://{role}:{quote(password, safe='')}@{host}:{base.get('port', 5432)}/crm_of_the_page"

    addresses = {
        "an administrator of the database": address(str(base["user"]), str(base.get("password", ""))),
        "the owner of your tables": address("crm_owner", "owner"),
        "your app": address("crm_app", "app"),
        "Backline's role": address("backline", "change-me"),
    }
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("BACKLINE_", "AIRFLOW"))}
    home = str(tmp_path_factory.mktemp("home"))
    # The form in which SQLAlchemy accepts a socket's folder.
    crm = f"postgresql://crm_app:app@/crm_of_the_page?host={base['host']}&port={base.get('port', 5432)}"
    found = Reader(addresses, {**kept, "HOME": home, "CRM_DATABASE_URL": crm})
    found.query("an administrator of the database", TABLES)
    yield found
    drop(server, "crm_of_the_page")
    with psycopg.connect(server, autocommit=True) as connection:
        for role in ("backline", "crm_app", "crm_owner"):
            connection.execute(f"DROP ROLE IF EXISTS {role}")


@pytest.fixture
def adopted(reader: Reader, monkeypatch: pytest.MonkeyPatch) -> Iterator[Reader]:
    """The page executed up to the dispatchers' part, and its environment set in this process."""
    if not reader.outputs:
        for number, (language, text) in enumerate(blocks()[:-2]):
            reader.follow(language, text)
            if number == 0:  # the page's \password
                reader.query("an administrator of the database", "ALTER ROLE backline PASSWORD 'change-me'")
    for name, value in reader.variables.items():
        if name.startswith(("BACKLINE_", "AIRFLOW_CONN_")):
            monkeypatch.setenv(name, value)
    settings.cache_clear()
    statements.cache_clear()
    yield reader
    settings.cache_clear()
    statements.cache_clear()


def run_statement(reader: Reader, name: str, **params: Any) -> list[dict[str, Any]]:
    """The rows of a statement of the page's file, as Backline's role."""
    with psycopg.connect(reader.addresses["Backline's role"], row_factory=dict_row) as connection:
        return connection.execute(statement("identity", name), params).fetchall()


def test_the_page_has_blocks_of_each_language() -> None:
    assert [language for language, _ in blocks()].count("sh") == 5
    assert {language for language, _ in blocks()} == {"sql", "sh", "python", "ruby", "js"}


def test_the_outbox_exists_and_every_statement_fits(adopted: Reader) -> None:
    migrated, _, _, checked, _ = adopted.outputs
    assert migrated.startswith("Applied 0001_outbox, 0002_enqueue")
    assert checked.splitlines()[0] == "7 of 7 statements fit, 7 of them from your own files"


def test_the_statements_find_the_crms_rows(adopted: Reader) -> None:
    reset = [{"value": "gAAAA-reset", "recipient": "head@example.com"}]
    assert run_statement(adopted, "password_reset_token", id=1) == reset
    assert run_statement(adopted, "password_reset_token", id="1") == reset
    assert [run_statement(adopted, "password_reset_token", id=number) for number in (2, 3, 4, 5)] == [[]] * 4
    assert run_statement(adopted, "email_verification_token", id=4) == [
        {"value": "gAAAA-verify", "recipient": "head@example.com"}
    ]
    assert run_statement(adopted, "mfa_code", id=6) == [{"value": "gAAAA-code", "recipient": "+4915112345678"}]
    head = {"email": "head@example.com", "name": "Head", "language": "de", "zone": "Europe/Berlin"}
    assert run_statement(adopted, "user_contact", id=1) == [head]
    assert run_statement(adopted, "user_contact", id=2) == []
    assert run_statement(adopted, "admin_recipients") == [head]
    assert {row["token"] for row in run_statement(adopted, "push_tokens", id="1")} == {"phone", "tablet"}


def test_an_unknown_device_is_removed(adopted: Reader) -> None:
    with psycopg.connect(adopted.addresses["Backline's role"]) as connection:
        done = connection.execute(statement("identity", "push_token_remove"), {"token": "tablet", "reason": "gone"})
        assert done.rowcount == 1
        found = connection.execute(statement("identity", "push_tokens"), {"id": "1"}).fetchall()
        assert found == [("phone",)]
        connection.rollback()


@pytest.mark.parametrize(
    ("who", "query"),
    [
        ("your app", "SELECT * FROM backline.message"),
        ("your app", "INSERT INTO backline.lane VALUES ('mine', 'email', 5)"),
        ("your app", "SELECT backline.attempt_partitions_drop('2100-01-01')"),
        ("Backline's role", "SELECT salary FROM crm.people"),
        ("Backline's role", "UPDATE crm.people SET left_on = '2026-01-01'"),
        ("Backline's role", "UPDATE crm.devices SET token = 'mine'"),
        ("Backline's role", "DELETE FROM crm.devices"),
        ("Backline's role", "CREATE TABLE crm.mine ()"),
    ],
)
def test_no_role_has_more_rights_than_the_page_grants(who: str, query: str, adopted: Reader) -> None:
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        adopted.query(who, query)


def test_a_message_is_rolled_back_with_its_row(adopted: Reader) -> None:
    with psycopg.connect(adopted.addresses["your app"]) as connection:
        connection.execute("INSERT INTO crm.people (mail_address, full_name) VALUES ('no@example.com', 'No')")
        connection.execute("""SELECT backline.enqueue('welcome', 'no@example.com', '{"name": "No"}')""")
        connection.rollback()
    query = "SELECT recipient FROM backline.message WHERE recipient = 'no@example.com'"
    assert adopted.query("Backline's role", query) == []


def test_a_missing_privilege_is_named(adopted: Reader) -> None:
    adopted.query("the owner of your tables", "REVOKE SELECT (staff_rank) ON crm.people FROM backline")
    try:
        done = subprocess.run(
            ["./backline", "statements", "identity"], check=False, cwd=ROOT, env=adopted.variables, capture_output=True, text=True
        )  # fmt: skip
    finally:
        adopted.query("the owner of your tables", "GRANT SELECT (staff_rank) ON crm.people TO backline")
    assert done.returncode == 1
    assert "identity.admin_recipients  your file  permission denied for table people" in done.stdout
    assert "6 of 7 statements fit" in done.stdout


async def run(variables: dict[str, str], home: Path, *dags: str) -> tuple[dict[str, Any], list[Envelope]]:
    """Run DAGs as on a laptop in the page's environment; returns their results and the emails received."""
    mailbox = Mailbox()
    server = await asyncio.get_running_loop().create_server(lambda: SMTP(mailbox, hostname="mail.test"), "127.0.0.1", 0)
    async with server:
        extra = {"disable_tls": True, "disable_ssl": True, "from_email": "crm@example.com"}
        smtp = {"conn_type": "smtp", "host": "127.0.0.1", "port": server.sockets[0].getsockname()[1], "extra": extra}
        adopted = {name: value for name, value in variables.items() if name.startswith(("AIRFLOW", "BACKLINE"))}
        process = await asyncio.create_subprocess_exec(
            *run_dags.command(ROOT / "dags", {dag: {} for dag in dags}),
            env=run_dags.environment(home, ROOT / "dags", {**adopted, "AIRFLOW_CONN_SMTP_DEFAULT": json.dumps(smtp)}),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        output, errors = await asyncio.wait_for(process.communicate(), 280)
    return run_dags.parse_results(output.decode(), errors.decode()), mailbox.mails


@pytest.mark.parametrize("command", ["migrate", "statements"])
def test_without_an_address_the_error_names_the_variable(command: str, adopted: Reader) -> None:
    bare = {name: value for name, value in adopted.variables.items() if not name.startswith("BACKLINE_")}
    done = subprocess.run(["./backline", command], check=False, cwd=ROOT, env=bare, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("backline: no database given; set BACKLINE_DATABASE_URL=")


def test_the_jobs_run_and_deliver_what_the_app_enqueued(
    adopted: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = Fernet.generate_key().decode()
    monkeypatch.setitem(adopted.variables, "BACKLINE_FERNET_KEYS", key)
    encrypted = Fernet(key).encrypt(b"the-crms-own-token").decode()
    reset = """{"name": "Head", "token": {"$ref": "password_reset_token", "id": 1}}"""
    adopted.query("the owner of your tables", f"UPDATE crm.reset_links SET encrypted = '{encrypted}' WHERE link_no = 1")
    adopted.query("your app", f"SELECT backline.enqueue('password_reset', 'head@example.com', '{reset}')")
    wanted = {f"{name}@example.com" for name in ("pat", "kim", "lou", "head")}
    people = adopted.query("your app", "SELECT mail_address FROM crm.people")
    assert wanted <= {row["mail_address"] for row in people}
    dags = ("dispatch_email_urgent", "dispatch_email", "purge_dead_letters")
    ran, mails = asyncio.run(run(adopted.variables, tmp_path, *dags))
    assert {dag: ran[dag]["state"] for dag in dags} == dict.fromkeys(dags, "success")
    found = {envelope.rcpt_tos[0]: envelope.content for envelope in mails}
    assert found.keys() == wanted
    content = found["head@example.com"]
    assert isinstance(content, bytes)
    assert b"the-crms-own-token" in content
    adopted.follow(*blocks()[-2])
    assert {row["recipient"]: row["state"] for row in adopted.rows[-1]} == dict.fromkeys(wanted, "sent")


def test_uninstalling_leaves_nothing_behind(adopted: Reader) -> None:
    adopted.follow(*blocks()[-1])
    role = "SELECT rolname FROM pg_roles WHERE rolname = 'backline'"
    assert adopted.query("an administrator of the database", role) == []
    schema = "SELECT to_regnamespace('backline')::text AS schema"
    assert adopted.query("an administrator of the database", schema) == [{"schema": None}]
