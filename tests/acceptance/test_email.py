"""`send_email`, and the type `email` by SQL: every part of an email arrives."""

from __future__ import annotations

import base64
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default

import pytest

from demo.context import DemoContext
from testkit.sandbox_clients import EmailSummary
from tests.acceptance.isolated_stack import IsolatedStack

pytestmark = pytest.mark.stack


def test_email(context: DemoContext, stack: IsolatedStack) -> None:
    domain = context.domain("full")
    conf = {
        "to": f"Zoë Müller <zoe@{domain}>",
        "subject": "Bestellung 1042: geliefert ✓",
        "text": "It is on its way, for 12,50 €.",
        "html": "<p>It is on its way, for <b>12,50 €</b>.</p>",
        "cc": [f"cc@{domain}"],
        "bcc": [f"bcc@{domain}"],
        "reply_to": f"shop@{domain}",
        "headers": {"X-Order": "1042"},
        "attachments": [
            {
                "filename": "terms.txt",
                "content_base64": base64.b64encode(b"The terms.").decode(),
                "content_type": "text/plain",
            }
        ],
    }
    context.airflow.trigger("send_email", conf, context.run_id("full"))
    assert context.airflow.wait("send_email", context.run_id("full"), 90)["state"] == "success"

    (arrival,) = context.emails_at(domain)
    mail = _mail(stack, arrival)
    assert set(arrival.recipients) == {f"zoe@{domain}", f"cc@{domain}", f"bcc@{domain}"}
    assert mail["To"] == f"Zoë Müller <zoe@{domain}>"
    assert mail["Cc"] == f"cc@{domain}"
    assert mail["Bcc"] is None
    assert mail["Reply-To"] == f"shop@{domain}"
    assert mail["X-Order"] == "1042"
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail["Subject"] == conf["subject"]
    assert "for 12,50 €." in _part(mail, "plain")
    assert "<b>12,50 €</b>" in _part(mail, "html")
    (attached,) = mail.iter_attachments()
    assert (attached.get_filename(), attached.get_content().strip()) == ("terms.txt", "The terms.")

    result = context.airflow.xcom("send_email", context.run_id("full"), "send")
    assert result == {
        "message_id": result["message_id"], "state": "sent", "attempt": 1, "provider_id": mail["Message-ID"],
    }  # fmt: skip


def test_email_by_sql_is_sent_only_if_its_transaction_commits(context: DemoContext) -> None:
    domain = context.domain("sql")
    with context.transaction(roll_back=True):
        context.enqueue("email", f"undone@{domain}", {"subject": "Undone", "text": "Never sent."})
    with context.transaction():
        context.enqueue("email", f"done@{domain}", {"subject": "Done", "text": "Sent."})
    (arrival,) = context.wait_for_emails(domain, 1)
    assert (arrival.recipients, arrival.subject) == ((f"done@{domain}",), "Done")
    assert "Sent." in context.mail.get_email(arrival.id).text


def _mail(stack: IsolatedStack, arrival: EmailSummary) -> EmailMessage:
    """The caught file in the Maildir."""
    (path,) = (stack.home / "mail" / "new").glob(f"{arrival.id // 1_000_000}.M{arrival.id % 1_000_000:06}P*")
    return message_from_bytes(path.read_bytes(), policy=default)


def _part(mail: EmailMessage, kind: str) -> str:
    part = mail.get_body((kind,))
    assert part is not None, f"no {kind} part"
    return str(part.get_content())
