"""The mail catcher as its users meet it: a process, real SMTP, real HTTP."""

from __future__ import annotations

import re
import signal
import smtplib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parents[3]
READY = re.compile(r"SMTP 127\.0\.0\.1:(\d+), page (http://127\.0\.0\.1:\d+)/")


@dataclass
class RunningCatcher:
    process: subprocess.Popen[str]
    smtp_port: int
    web: httpx.Client
    maildir: Path

    def connect(self, timeout: float = 5) -> smtplib.SMTP:
        return smtplib.SMTP("127.0.0.1", self.smtp_port, timeout=timeout)

    def send(self, *to: str, subject: str = "Hello", text: str = "Hi") -> None:
        with self.connect() as client:
            client.send_message(build_email(subject, text), "sender@example.com", list(to or ("ann@example.com",)))

    def list_messages(self, **query: str) -> list[dict[str, object]]:
        response = self.web.get("/api/messages", params=query)
        assert response.status_code == 200, response.text
        messages: list[dict[str, object]] = response.json()["messages"]
        return messages

    def set_faults(self, *rules: dict[str, object]) -> None:
        response = self.web.put("/faults", json=list(rules))
        assert response.status_code == 200, response.text

    def stop(self) -> float:
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(10) == 0
        assert self.process.stdout
        self.process.stdout.close()
        self.web.close()
        return time.monotonic() - began


def build_email(subject: str = "Hello", text: str = "Hi", html: str = "") -> EmailMessage:
    message = EmailMessage()
    message["From"] = "sender@example.com"
    message["Subject"] = subject
    message.set_content(text)
    if html:
        message.add_alternative(html, subtype="html")
    return message


def catcher_command(smtp_port: int, web_port: int, maildir: Path) -> list[str]:
    ports = ["--smtp-port", str(smtp_port), "--web-port", str(web_port)]
    return [sys.executable, "-m", "sandbox.mail", *ports, "--maildir", str(maildir)]


def start_catcher(maildir: Path) -> RunningCatcher:
    process = subprocess.Popen(catcher_command(0, 0, maildir), cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout
    ready = READY.search(process.stdout.readline())
    assert ready
    return RunningCatcher(process, int(ready[1]), httpx.Client(base_url=ready[2], trust_env=False), maildir)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningCatcher]:
    catcher = start_catcher(tmp_path_factory.mktemp("mail") / "box")
    yield catcher
    catcher.stop()


@pytest.fixture
def catcher(running: RunningCatcher) -> RunningCatcher:
    running.web.delete("/faults").raise_for_status()
    running.web.delete("/api/messages").raise_for_status()
    return running


def test_a_message_arrives_in_maildir_api_and_page(catcher: RunningCatcher) -> None:
    before = time.time()
    catcher.send("ann@example.com", subject="Grüße 😀", text="line\n.dot\n..two")

    [found] = catcher.list_messages(to="ANN@example.com", subject="grüße")
    assert (found["from"], found["to"]) == ("sender@example.com", ["ann@example.com"])
    assert before <= float(str(found["arrived_at"])) <= time.time()
    detail = catcher.web.get(f"/api/messages/{found['id']}").json()
    assert detail["text"] == "line\n.dot\n..two\n"
    [file] = (catcher.maildir / "new").iterdir()
    assert re.match(
        rb"X-Envelope-From: sender@example.com\r\nX-Envelope-To: ann@example.com\r\nX-Arrived-At: \d{10}\.\d{6}\r\n",
        file.read_bytes(),
    )
    assert not list((catcher.maildir / "tmp").iterdir())
    assert "Grüße 😀" in catcher.web.get("/").text
    page = catcher.web.get(f"/messages/{found['id']}")
    assert "Grüße 😀" in page.text
    assert "..two" in page.text


def test_every_envelope_recipient_is_kept_in_order(catcher: RunningCatcher) -> None:
    catcher.send("b@example.com", "a@example.com", "c@example.org")

    [found] = catcher.list_messages()
    assert found["to"] == ["b@example.com", "a@example.com", "c@example.org"]
    counts = {
        to: catcher.web.get("/api/count", params={"to": to}).json()["count"] for to in ("*@example.org", "a@*", "a")
    }
    assert counts == {"*@example.org": 1, "a@*": 1, "a": 0}


def test_pipelined_group_in_one_packet_is_answered_in_order(catcher: RunningCatcher) -> None:
    with socket.create_connection(("127.0.0.1", catcher.smtp_port), 5) as connection:
        replies = connection.makefile("rb")
        connection.sendall(
            b"EHLO test\r\nMAIL FROM:<a@example.com> BODY=8BITMIME SMTPUTF8\r\nRCPT TO:<wrong>\r\n"
            b"RCPT TO:<\xc3\xa4nn@example.com>\r\nDATA\r\nSubject: pipelined\r\n\r\nbody\r\n.\r\n"
            b"MAIL FROM:<>\r\nRCPT TO:<bob@example.com>\r\nDATA\r\n.\r\nQUIT\r\n"
        )
        lines = [line.decode() for line in replies]
    codes = " ".join(line[:3] for line in lines if line[3] == " ")
    assert codes == "220 250 250 553 250 354 250 250 250 354 250 221"
    assert {"250-PIPELINING\r\n", "250-8BITMIME\r\n", "250-SMTPUTF8\r\n"} <= set(lines)
    assert [(item["to"], item["subject"]) for item in catcher.list_messages()] == [
        (["bob@example.com"], ""),
        (["änn@example.com"], "pipelined"),
    ]


def test_login_and_limits(catcher: RunningCatcher) -> None:
    with catcher.connect() as client:
        client.login("anyone", "anything")
        assert client.mail("a@example.com", ["SIZE=36700161"])[0] == 552
        assert client.docmd("RCPT", "TO:<b@example.com>")[0] == 503
        client.send("MAIL FROM:<ä@example.com>\r\n".encode())
        assert client.getreply()[0] == 553
        client.mail("a@example.com")
        client.rcpt("b@example.com")
        assert client.data(b"x" * 36_700_200)[0] == 552
        assert client.sendmail("a@example.com", ["b@example.com"], b"Subject: still here\r\n\r\n") == {}
    assert [item["subject"] for item in catcher.list_messages()] == ["still here"]


def test_bare_line_feed_in_a_command_cannot_forge_a_header(catcher: RunningCatcher) -> None:
    with catcher.connect() as client:
        client.ehlo()
        client.mail("a@example.com")
        client.send(b"RCPT TO:<b@example.com\rX-Envelope-To: c@example.com>\r\n")
        assert client.getreply()[0] == 500
        client.send(b"RCPT TO:<b@example.com>\r\n")
        assert client.getreply()[0] == 250


def test_fault_reply_is_sent_to_matching_recipients_until_spent(catcher: RunningCatcher) -> None:
    catcher.set_faults(
        {"stage": "rcpt", "action": "reply", "recipient": "*@busy.example", "reply": "451 4.3.0 later", "times": 2}
    )
    with catcher.connect() as client:
        client.ehlo()
        client.mail("a@example.com")
        replies = [
            client.rcpt(to)[0] for to in ("x@busy.example", "ann@example.com", "X@BUSY.example", "x@busy.example")
        ]
    assert replies == [451, 250, 451, 250]
    [rule] = catcher.web.get("/faults").json()
    assert (rule["fired"], rule["remaining"]) == (2, 0)
    assert "spent" in catcher.web.get("/fault-injection").text


def test_fault_reply_at_each_stage(catcher: RunningCatcher) -> None:
    catcher.set_faults({"stage": "mail", "action": "reply", "reply": "452 4.3.1 full", "times": 1})
    with pytest.raises(smtplib.SMTPSenderRefused) as refused:
        catcher.send()
    assert refused.value.smtp_code == 452
    catcher.set_faults({"stage": "data", "action": "reply", "reply": "550 5.7.1 spam", "recipient": "ann@*"})
    with pytest.raises(smtplib.SMTPDataError) as data_error:
        catcher.send("bob@example.com", "ann@example.com")
    assert data_error.value.smtp_code == 550
    catcher.set_faults({"stage": "connect", "action": "reply", "reply": "421 4.3.2 closed"})
    with pytest.raises(smtplib.SMTPConnectError) as connect_error:
        catcher.connect()
    assert connect_error.value.smtp_code == 421
    assert catcher.list_messages() == []


def test_fault_slow_delays_and_then_accepts(catcher: RunningCatcher) -> None:
    catcher.set_faults({"stage": "data", "action": "slow", "seconds": 0.3})
    began = time.monotonic()
    catcher.send()
    assert time.monotonic() - began >= 0.3
    assert len(catcher.list_messages()) == 1


@pytest.mark.parametrize(("after", "kept"), [(False, 0), (True, 1)])
def test_fault_slow_beyond_the_clients_timeout(catcher: RunningCatcher, *, after: bool, kept: int) -> None:
    catcher.set_faults({"stage": "data", "action": "slow", "seconds": 60, "after": after})
    client = catcher.connect(timeout=0.3)
    with pytest.raises((TimeoutError, smtplib.SMTPServerDisconnected)):
        client.sendmail("a@example.com", ["b@example.com"], "Subject: patience\r\n\r\n")
    client.close()
    assert len(catcher.list_messages()) == kept


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        ({"stage": "connect"}, 0),
        ({"stage": "mail"}, 0),
        ({"stage": "rcpt"}, 0),
        ({"stage": "data"}, 0),
        ({"stage": "data", "after": True}, 1),
    ],
)
def test_fault_drop_closes_the_connection(catcher: RunningCatcher, rule: dict[str, object], kept: int) -> None:
    catcher.set_faults({**rule, "action": "drop", "times": 1})
    with pytest.raises((smtplib.SMTPServerDisconnected, ConnectionError)):
        catcher.send()
    assert len(catcher.list_messages()) == kept
    catcher.send()
    assert len(catcher.list_messages()) == kept + 1


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ('[{"stage": "rcpt", "action": "reply", "tims": 1}]', "[0].tims: unknown field; known ones are recipient"),
        ('[{"stage": "rcpt", "action": "reply"}, {"stage": "end", "action": "drop"}]', "[1].stage: should be one of"),
        ('[{"stage": "rcpt"}]', "[0].action: missing; give one of"),
        ('[{"stage": "rcpt", "action": "reply", "reply": "250 ok"}]', "[0].reply: should be a code from 400"),
        ('[{"stage": "rcpt", "action": "reply", "times": "3"}]', "[0].times: should be a whole number from 1"),
        ('[{"stage": "rcpt", "action": "drop", "after": true}]', "[0].after: should be true or false"),
        ('[{"stage": "mail", "action": "drop", "recipient": "a@b"}]', "[0].recipient: unknown at stage"),
        ('{"stage": "rcpt"}', "body: should be a list of rules"),
        ("[", "body: not JSON"),
    ],
)
def test_invalid_fault_rules_are_rejected_by_field_and_change_nothing(
    catcher: RunningCatcher, body: str, named: str
) -> None:
    catcher.set_faults({"stage": "rcpt", "action": "slow"})
    response = catcher.web.put("/faults", content=body)
    assert response.status_code == 400
    assert named in response.json()["detail"]
    assert len(catcher.web.get("/faults").json()) == 1


def test_fault_rules_by_form(catcher: RunningCatcher) -> None:
    form = {"kind": "5xx", "recipient": "gone@example.com", "times": "2"}
    assert catcher.web.post("/fault-injection", data=form).status_code == 303
    assert "550 5.1.1 no such user" in catcher.web.get("/fault-injection").text
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        catcher.send("gone@example.com")
    wrong = catcher.web.post("/fault-injection", data={"kind": "slow", "times": "often"})
    assert wrong.status_code == 400
    assert "times: should be a whole number" in wrong.text
    assert catcher.web.post("/fault-injection/clear").status_code == 303
    assert catcher.web.get("/faults").json() == []


def test_hostile_content_is_inert(catcher: RunningCatcher) -> None:
    attack = "</title><script>alert(1)</script>"
    message = build_email(attack, attack, f'"><img src=x onerror=alert(1)>{attack}<a href="javascript:alert(1)">x</a>')
    message.add_attachment(b"<script>", maintype="text", subtype="html", filename='"><script>.html')
    with catcher.connect() as client:
        client.send_message(message, "a@example.com", ['"<script>"@example.com'])
    [found] = catcher.list_messages()
    for path in ("/", f"/messages/{found['id']}", "/?subject=%22><script>"):
        page = catcher.web.get(path)
        assert "<script" not in page.text
        assert "<img" not in page.text
        assert 'href="javascript' not in page.text
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert "script-src" not in page.headers["content-security-policy"]
        assert page.headers["x-content-type-options"] == "nosniff"
    assert '<iframe sandbox=""' in catcher.web.get(f"/messages/{found['id']}").text
    attachment = catcher.web.get(f"/messages/{found['id']}/attachments/0")
    assert attachment.headers["content-type"] == "application/octet-stream"
    assert attachment.headers["content-disposition"] == "attachment; filename*=UTF-8''%22%3E%3Cscript%3E.html"
    assert attachment.content == b"<script>"
    raw = catcher.web.get(f"/messages/{found['id']}/raw")
    assert raw.headers["content-type"] == "text/plain; charset=utf-8"


def test_other_hosts_and_origins_are_rejected(catcher: RunningCatcher) -> None:
    catcher.send()
    assert catcher.web.get("/", headers={"Host": "rebound.example"}).status_code == 400
    own = str(catcher.web.base_url)
    for headers in ({"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}):
        assert catcher.web.delete("/api/messages", headers=headers).status_code == 403
        assert catcher.web.post("/empty", headers=headers).status_code == 403
    assert len(catcher.list_messages()) == 1
    assert catcher.web.post("/empty", headers={"Origin": own, "Sec-Fetch-Site": "same-origin"}).status_code == 303
    assert catcher.list_messages() == []


def test_paging_and_search(catcher: RunningCatcher) -> None:
    with catcher.connect() as client:
        for number in range(120):
            client.sendmail("a@example.com", [f"user{number}@example.com"], f"Subject: number {number}\r\n\r\n")
    seen: list[str] = []
    path: str | None = "/"
    while path:
        page = catcher.web.get(path).text
        seen += re.findall(r">number (\d+)</a>", page)
        older = re.search(r'href="(/\?before=\d+)">Older', page)
        path = older[1] if older else None
    assert seen == [str(number) for number in reversed(range(120))]
    assert re.findall(r">number (\d+)</a>", catcher.web.get("/?to=user7@&subject=NUMBER").text) == ["7"]
    first = catcher.list_messages(limit="1", offset="119")
    since = catcher.list_messages(since=str(first[0]["arrived_at"]), limit="1000")
    assert len(since) == 120
    assert catcher.web.get("/api/messages?limit=no").json() == {
        "detail": "limit: should be a whole number from 0 to 1000"
    }
    assert catcher.web.get("/api/messages?from=a").status_code == 400


def test_delete_empties_maildir_and_the_page_shows_how_to_send(catcher: RunningCatcher) -> None:
    catcher.send()
    assert catcher.web.delete("/api/messages").json() == {"deleted": 1}
    assert not list((catcher.maildir / "new").iterdir())
    assert catcher.web.get("/api/count").json() == {"count": 0}
    assert "./backline airflow dags trigger send_email" in catcher.web.get("/").text


def test_a_file_removed_by_hand_leaves_the_index(catcher: RunningCatcher) -> None:
    catcher.send()
    [found] = catcher.list_messages()
    (catcher.maildir / str(found["file"])).unlink()
    assert catcher.web.get(f"/api/messages/{found['id']}").status_code == 404
    assert catcher.list_messages() == []


def test_restart_keeps_messages_and_stopping_is_quick(tmp_path: Path) -> None:
    first = start_catcher(tmp_path)
    first.send("ann@example.com", "bob@example.com", subject="Kept")
    first.send(subject="Second")
    before = first.list_messages()
    idle = first.connect()
    assert first.stop() < 2
    idle.close()

    second = start_catcher(tmp_path)
    assert second.list_messages() == before
    second.send(subject="Third")
    assert [item["subject"] for item in second.list_messages()] == ["Third", "Second", "Kept"]
    second.stop()


def test_a_used_port_is_a_one_line_error(catcher: RunningCatcher, tmp_path: Path) -> None:
    refused = subprocess.run(
        catcher_command(catcher.smtp_port, 0, tmp_path),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=10,
    )
    assert refused.returncode == 1
    assert refused.stderr == (
        f"mail catcher: port {catcher.smtp_port} on 127.0.0.1 is used by another program; "
        "choose another with --smtp-port\n"
    )
