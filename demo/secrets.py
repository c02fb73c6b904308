"""A secret that only its recipient sees: the message refers to the app's own row, and a statement resolves it."""

from __future__ import annotations

import hashlib
import json
import secrets
from typing import Any

from backline.encryption import Encryptor
from backline.messages import registry
from backline.reference_app import apply_schema, seed
from demo.check import Check, Result, require
from demo.context import DemoContext
from demo.send_runs import email_mismatch, run_result

MESSAGE_TYPE = "password_reset"
DAG_ID = f"send_{MESSAGE_TYPE}"
SECRET_REFERENCE = "password_reset_token"


def secret_reference_check() -> Check:
    """A link to choose a new password, for somebody of the reference app."""
    reset = _PasswordReset()
    return Check("password_reset by secret reference", reset.check, reset.prepare)


class _PasswordReset:
    """One request for a new password, as the app makes it and as its recipient gets it."""

    def __init__(self) -> None:
        self._token = secrets.token_urlsafe(24)
        self._name = ""
        self._users = 0

    def prepare(self, world: DemoContext) -> None:
        """Fill the reference app if it is empty, note the token there, and start the run that refers to it."""
        sealer = Encryptor(world.stack.secrets.backline_fernet_keys.split(","))
        apply_schema(world.dsn)
        if not world.query("demo", "user_count")[0]["users"]:
            seed(world.dsn, 1, encryptor=sealer, report=world.report_progress)
        self._users = world.query("demo", "user_count")[0]["users"]
        digest = hashlib.sha256(self._token.encode()).digest()
        [asked] = world.query(
            "demo", "password_reset_create", token_hash=digest, token_encrypted=sealer.encrypt(self._token)
        )
        self._name = asked["name"]
        token = {"$ref": SECRET_REFERENCE, "id": asked["id"]}
        conf = {"to": self._recipient(world), "name": self._name, "token": token}
        world.airflow.trigger(DAG_ID, conf, world.run_id("reset"))

    def check(self, world: DemoContext) -> Result:
        """The link is in the mail, and its token in nothing that was written down."""
        run_id, recipient = world.run_id("reset"), self._recipient(world)
        result = run_result(world, DAG_ID, run_id)
        message_id = int(result["message_id"])
        world.sent[message_id] = recipient
        arrived = world.emails_at(world.domain("reset"))
        require(len(arrived) == 1, f"{len(arrived)} messages arrived for {recipient}")
        letter = world.mail.get_email(arrived[0].id)
        clear = {"name": self._name, "token": self._token}
        problem = email_mismatch(registry.get(MESSAGE_TYPE), clear, recipient, letter)
        require(problem is None, f"{problem}")
        require(self._token in letter.text, "the link in the mail does not hold the token")
        written: dict[str, Any] = {
            "conf": world.airflow.run(DAG_ID, run_id)["conf"],
            "result": result,
            "log": world.airflow.log(DAG_ID, run_id, "send"),
            "outbox": world.query("demo", "message_stored_text", id=message_id)[0]["text"],
        }
        found = [place for place, text in written.items() if self._token in json.dumps(text)]
        require(not found, f"the token stands in the run's or the message's {' and '.join(found)}")
        return Result("link in the mail", f"there alone ({self._users:,} users)")

    def _recipient(self, world: DemoContext) -> str:
        return f"ann@{world.domain('reset')}"
