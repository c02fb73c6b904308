"""A payment provider on loopback, spoken to over HTTP, and what takes an order's money by it.

The provider keeps what it has charged by idempotency key: asked again, it tells the same. `HttpCharging` is a client as a
team might write one: it notes each try before it makes it, and learns from the provider what came of one without an end.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, cast

import httpx

from backline.db.session import Session
from backline.errors import NetworkFailure, Rejected

CARDS: dict[str, dict[str, str]] = {
    "card_good": {"state": "paid"},
    "card_stolen": {"state": "declined", "kind": "hard", "code": "stolen_card"},
    "card_empty": {"state": "declined", "kind": "soft", "code": "insufficient_funds"},
    "card_asks": {"state": "needs_action"},
}

LEARNT = """
UPDATE app.payments SET state = %(state)s::app.payment_state, provider_reference = %(reference)s,
    decline_kind = %(kind)s::app.decline_kind, decline_code = %(code)s,
    captured_at = CASE WHEN %(state)s = 'captured' THEN %(at)s::timestamptz END,
    failed_at = CASE WHEN %(kind)s::text IS NOT NULL THEN %(at)s::timestamptz END,
    abandoned_at = CASE WHEN %(kind)s = 'hard' THEN %(at)s::timestamptz END,
    next_try_at = CASE WHEN %(kind)s = 'soft' THEN %(at)s::timestamptz + interval '1 day' END
WHERE id = %(id)s
"""


@dataclass
class Provider:
    """What the provider has in its books."""

    url: str = ""
    charges: dict[str, dict[str, Any]] = field(default_factory=dict)
    refunds: dict[str, dict[str, Any]] = field(default_factory=dict)
    away: bool = False
    """Answers 503."""
    requests: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def taken(self) -> int:
        """Minor units that it has and has not given back, over all orders."""
        got = sum(charge["amount"] for charge in self.charges.values() if charge["state"] == "paid")
        return got - sum(refund["amount"] for refund in self.refunds.values())

    def answer(self, path: str, key: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        with self.lock:
            self.requests += 1
            if self.away:
                return 503, {}
            if path == "/charges":
                made = {"id": f"ch_{len(self.charges) + 1}", "amount": body["amount"], **CARDS[body["card"]]}
                return 200, self.charges.setdefault(key, made)
            if path == "/refunds":
                made = {"id": f"re_{len(self.refunds) + 1}", "amount": body["amount"]}
                return 200, self.refunds.setdefault(key, made)
            return 404, {}


@contextmanager
def serving() -> Iterator[Provider]:
    """A provider that listens until the end."""
    provider = Provider()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, answer = provider.answer(self.path, self.headers["Idempotency-Key"], body)
            text = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *arguments: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    provider.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield provider
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@dataclass(frozen=True)
class Charged:
    state: Literal["paid", "declined", "needs_action"]


@dataclass(frozen=True)
class HttpCharging:
    """Takes and gives back by the provider at `url`; `charged` is called between its answer and the commit of it."""

    url: str
    charged: Callable[[], None] = lambda: None

    def charge(self, database: Session, order_id: int) -> Charged:
        with database.transaction():
            order = database.execute("SELECT * FROM app.orders WHERE id = %s FOR UPDATE", [order_id]).fetchone()
            assert order is not None
            payment = self._payment(database, order)
            if payment["state"] == "captured":
                return Charged("paid")
            if order["state"] != "reserved":
                raise Rejected(f"order {order_id} is {order['state']}: it is not to be paid")
            number = self._begin(database, payment["id"])
        body = {"amount": payment["amount_minor"], "card": payment["method_reference"]}
        answer = self._post("/charges", payment["idempotency_key"], body)
        self.charged()
        with database.transaction():
            self._end(database, payment["id"], number, answer)
        return Charged(cast("Any", answer["state"]))

    def refund(self, database: Session, order_id: int, reason: str) -> None:
        query = "SELECT * FROM app.payments WHERE order_id = %s AND state = 'captured'"
        payment = database.execute(query, [order_id]).fetchone()
        if payment is None or payment["refunded_minor"] == payment["amount_minor"]:
            return
        database.execute(
            "INSERT INTO app.refunds (payment_id, amount_minor, currency, reason) SELECT id, amount_minor, currency, %s"
            " FROM app.payments AS p WHERE id = %s AND NOT EXISTS (SELECT FROM app.refunds WHERE payment_id = p.id)",
            [reason, payment["id"]],
        )
        answer = self._post("/refunds", f"refund-{payment['idempotency_key']}", {"amount": payment["amount_minor"]})
        self.charged()
        with database.transaction():
            database.execute(
                "UPDATE app.refunds SET state = 'succeeded', ended_at = clock_timestamp(), provider_reference = %s"
                " WHERE payment_id = %s AND state = 'pending'", [answer["id"], payment["id"]],
            )  # fmt: skip
            database.execute("UPDATE app.payments SET refunded_minor = amount_minor WHERE id = %s", [payment["id"]])

    def _payment(self, database: Session, order: dict[str, Any]) -> dict[str, Any]:
        query = "SELECT * FROM app.payments WHERE order_id = %s ORDER BY id DESC LIMIT 1"
        found = database.execute(query, [order["id"]]).fetchone()
        assert found is not None, "the order's checkout has made it, with the card"
        return found

    def _begin(self, database: Session, payment_id: int) -> int:
        """The number of a try: of the one that has no end, or of a new one."""
        query = "SELECT number FROM app.payment_tries WHERE payment_id = %s AND ended_at IS NULL"
        if found := database.execute(query, [payment_id]).fetchone():
            return int(found["number"])
        updated = database.execute(
            "UPDATE app.payments SET tries = tries + 1 WHERE id = %s RETURNING tries", [payment_id]
        ).fetchone()
        assert updated is not None
        insert = "INSERT INTO app.payment_tries (payment_id, number) VALUES (%s, %s)"
        database.execute(insert, [payment_id, updated["tries"]])
        return int(updated["tries"])

    def _end(self, database: Session, payment_id: int, number: int, answer: dict[str, Any]) -> None:
        outcome = {"paid": "captured", "declined": "declined", "needs_action": "requires_action"}[answer["state"]]
        kind, code = answer.get("kind"), answer.get("code")
        done = database.execute(
            "UPDATE app.payment_tries SET ended_at = clock_timestamp(), outcome = %s, decline_kind = %s, decline_code = %s"
            " WHERE payment_id = %s AND number = %s AND ended_at IS NULL RETURNING ended_at",
            [outcome, kind, code, payment_id, number],
        ).fetchone()
        if done is None:
            return  # another has learnt it meanwhile
        state = {"captured": "captured", "requires_action": "requires_action"}.get(
            outcome, "abandoned" if kind == "hard" else "failed"
        )
        values = {"state": state, "reference": answer["id"], "kind": kind, "code": code, "id": payment_id}
        database.execute(LEARNT, {**values, "at": done["ended_at"]})

    def _post(self, path: str, key: str, body: dict[str, Any]) -> dict[str, Any]:
        try:
            answer = httpx.post(self.url + path, json=body, headers={"Idempotency-Key": key}, timeout=10)
        except httpx.HTTPError as exc:
            raise NetworkFailure(f"payment provider: {exc}") from exc
        if answer.status_code != 200:
            raise NetworkFailure(f"payment provider: HTTP {answer.status_code}", code=str(answer.status_code))
        return cast("dict[str, Any]", answer.json())


URL = "BACKLINE_TEST_PROVIDER"


def from_environment() -> HttpCharging:
    """For the setting `orders.charging`: by the provider whose URL the environment has."""
    return HttpCharging(os.environ[URL])
