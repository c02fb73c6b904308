"""A secret that only its recipient sees: the message refers to the app's own row, and a statement resolves it."""

from __future__ import annotations

import hashlib
import json
import secrets
from typing import Any

from backline.demo.check import Check, Result, require
from backline.demo.sends import content_problem, run_result
from backline.demo.world import World
from backline.messages import registry
from backline.reference_app import apply, seed
from backline.sealing import Sealer

TYPE = "password_reset"
DAG = f"send_{TYPE}"
REFERENCE = "password_reset_token"


def by_reference() -> Check:
    """A link to choose a new password, for somebody of the reference app."""
    reset = _Reset()
    return Check("password_reset by secret reference", reset.arrives, reset.ask)


class _Reset:
    """One request for a new password, as the app makes it and as its recipient gets it."""

    def __init__(self) -> None:
        self._token = secrets.token_urlsafe(24)
        self._name = ""
        self._users = 0

    def ask(self, world: World) -> None:
        """Fill the reference app if it is empty, note the token there, and start the run that refers to it."""
        sealer = Sealer(world.stack.secrets.backline_fernet_keys.split(","))
        apply(world.dsn)
        if not world.query("demo", "app_users")[0]["users"]:
            seed(world.dsn, 1, sealer=sealer, report=world.say)
        self._users = world.query("demo", "app_users")[0]["users"]
        digest = hashlib.sha256(self._token.encode()).digest()
        [asked] = world.query("demo", "reset_asked", token_hash=digest, token_sealed=sealer.seal(self._token))
        self._name = asked["name"]
        token = {"$ref": REFERENCE, "id": asked["id"]}
        conf = {"to": self._recipient(world), "name": self._name, "token": token}
        world.airflow.trigger(DAG, conf, world.run_id("reset"))

    def arrives(self, world: World) -> Result:
        """The link is in the mail, and its token in nothing that was written down."""
        run_id, recipient = world.run_id("reset"), self._recipient(world)
        result = run_result(world, DAG, run_id)
        message_id = int(result["message_id"])
        world.sent[message_id] = recipient
        arrived = world.arrivals(world.domain("reset"))
        require(len(arrived) == 1, f"{len(arrived)} messages arrived for {recipient}")
        letter = world.mail.open(arrived[0].id)
        clear = {"name": self._name, "token": self._token}
        problem = content_problem(registry.get(TYPE), clear, recipient, letter)
        require(problem is None, f"{problem}")
        require(self._token in letter.text, "the link in the mail does not hold the token")
        written: dict[str, Any] = {
            "conf": world.airflow.run(DAG, run_id)["conf"],
            "result": result,
            "log": world.airflow.log(DAG, run_id, "send"),
            "outbox": world.query("demo", "written_about", id=message_id)[0]["text"],
        }
        found = [place for place, text in written.items() if self._token in json.dumps(text)]
        require(not found, f"the token stands in the run's or the message's {' and '.join(found)}")
        return Result("link in the mail", f"there alone ({self._users:,} users)")

    def _recipient(self, world: World) -> str:
        return f"ann@{world.domain('reset')}"
