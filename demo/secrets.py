"""A secret visible only to its recipient: the message references a row of the app, and a statement resolves it."""

from __future__ import annotations

import hashlib
import json
import secrets
from typing import Any

from backline.encryption import Encryptor
from backline.messages import registry
from demo.check import Check, Result, require
from demo.context import DemoContext
from demo.send_runs import email_mismatch, run_result
from stack.reference_app import apply_schema, seed

MESSAGE_TYPE = "password_reset"
DAG_ID = f"send_{MESSAGE_TYPE}"
SECRET_REFERENCE = "password_reset_token"  # noqa: S105 - the reference's name


def secret_reference_check() -> Check:
    """An email with a password reset link for a user of the reference app."""
    reset = _PasswordReset()
    return Check("password_reset by secret reference", reset.check, reset.prepare)


class _PasswordReset:
    """One password reset, as the app requests it and as its recipient gets it."""

    def __init__(self) -> None:
        self._token = secrets.token_urlsafe(24)
        self._name = "Ann"
        self._users = 0

    def prepare(self, context: DemoContext) -> None:
        """Fill the reference app if it is empty, insert the token there, and start the run that references it."""
        encryptor = Encryptor(context.stack.secrets.backline_fernet_keys.split(","))
        apply_schema(context.dsn)
        if not context.query("demo", "user_count")[0]["users"]:
            seed(context.dsn, 1, encryptor=encryptor, report=context.report_progress)
        self._users = context.query("demo", "user_count")[0]["users"]
        digest = hashlib.sha256(self._token.encode()).digest()
        [reset] = context.query(
            "demo", "password_reset_create", email=self._recipient(context), user_name=self._name, token_hash=digest,
            token_encrypted=encryptor.encrypt(self._token),
        )  # fmt: skip
        token = {"$ref": SECRET_REFERENCE, "id": reset["id"]}
        conf = {"to": self._recipient(context), "name": self._name, "token": token}
        context.airflow.trigger(DAG_ID, conf, context.run_id("reset"))

    def check(self, context: DemoContext) -> Result:
        """The link is in the email, and its token in nothing else that is stored."""
        run_id, recipient = context.run_id("reset"), self._recipient(context)
        result = run_result(context, DAG_ID, run_id)
        message_id = int(result["message_id"])
        context.sent[message_id] = recipient
        arrived = context.emails_at(context.domain("reset"))
        require(len(arrived) == 1, f"{len(arrived)} messages arrived for {recipient}")
        email = context.mail.get_email(arrived[0].id)
        plaintext = {"name": self._name, "token": self._token}
        problem = email_mismatch(registry.get(MESSAGE_TYPE), plaintext, recipient, email)
        require(problem is None, f"{problem}")
        require(self._token in email.text, "the link in the email lacks the token")
        stored: dict[str, Any] = {
            "conf": context.airflow.run(DAG_ID, run_id)["conf"],
            "result": result,
            "log": context.airflow.log(DAG_ID, run_id, "send"),
            "outbox": context.query("demo", "message_stored_text", id=message_id)[0]["text"],
        }
        found = [name for name, text in stored.items() if self._token in json.dumps(text)]
        require(not found, f"the token is stored in the run's or the message's {' and '.join(found)}")
        return Result("link in the email", f"only there ({self._users:,} users)")

    def _recipient(self, context: DemoContext) -> str:
        return f"ann@{context.domain('reset')}"
