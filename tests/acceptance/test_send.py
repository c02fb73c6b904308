"""`send_<type>` for types rendered from a template; each case's id is the type."""

from __future__ import annotations

from typing import Any

import pytest

from demo.context import DemoContext

pytestmark = pytest.mark.stack

NAMED: dict[str, tuple[dict[str, Any], str, str]] = {
    "templated_email": (
        {"template": "notice", "context": {"heading": "We have moved", "paragraphs": ["Now at 1 High Street."]}},
        "We have moved",
        "Now at 1 High Street.",
    ),
    "urgent_email": (
        {"context": {"title": "Disk almost full", "summary": "db-1 has 4 % left.", "severity": "warning"}},
        "[warning] Disk almost full",
        "db-1 has 4 % left.",
    ),
    "welcome": (
        {"name": "Ann O'Hara", "login_url": "https://shop.example/login?from=mail"},
        "Welcome to Backline, Ann O'Hara",
        "https://shop.example/login?from=mail",
    ),
}


@pytest.mark.parametrize("kind", NAMED)
def test_send(kind: str, context: DemoContext) -> None:
    payload, subject, value = NAMED[kind]
    _run(context, kind, payload)
    (arrival,) = context.emails_at(context.domain(kind))
    email = context.mail.get_email(arrival.id)
    assert email.recipients == (f"ann@{context.domain(kind)}",)
    assert email.subject == subject
    assert value in email.text
    assert value in email.html
    assert "<html" in email.html.lower()
    assert "style=" in email.html  # inlined: mail programs drop style sheets


def _run(context: DemoContext, kind: str, payload: dict[str, Any]) -> None:
    run_id = context.run_id(kind)
    context.airflow.trigger(f"send_{kind}", {"to": f"ann@{context.domain(kind)}", **payload}, run_id)
    run = context.airflow.wait(f"send_{kind}", run_id, 90)
    assert run["state"] == "success", context.airflow.log(f"send_{kind}", run_id, "send")
