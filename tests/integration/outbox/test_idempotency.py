"""Idempotency keys: one scope per key and caller; the content decides between the first id and a refusal."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as profile
from hypothesis import strategies as st
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row
from psycopg.sql import SQL, Identifier, Literal

from backline.db.connect import translate_error
from backline.errors import InvalidInput
from backline.outbox.submission import NewMessage, enqueue_batch
from tests.integration.outbox.support import PAYLOAD, Outbox

Connection = psycopg.Connection[dict[str, Any]]
SINGLE: LiteralString = (
    "SELECT backline.enqueue(%(type)s, %(recipient)s, %(payload)s::jsonb, idempotency_key => %(key)s,"
    " replay_of => %(replay_of)s, key_scope => %(scope)s) AS id"
)
MANY: LiteralString = (
    "SELECT backline.enqueue_many(%(type)s, %(recipients)s::text[], %(payloads)s::jsonb[], idempotency_keys => %(keys)s::text[],"
    " replay_of => %(replay_of)s, key_scope => %(scope)s) AS ids"
)
TYPES = ("email", "note", "alert")
"""With the same fields; `alert` has two channels."""
FIELDS: dict[str, Any] = dict.fromkeys(PAYLOAD, (str, ...))
EMAILS = ["ann@example.com", "bob@example.com"]
SMS = "+4915112345678"
GROUPS = ['{"email": "ann@example.com"}', f'{{"sms": "{SMS}"}}', f'{{"email": "ann@example.com", "sms": "{SMS}"}}']
"""By channel set."""
ROLES = ("owner", "login", "set role")


@dataclass(frozen=True)
class Request:
    """One call: who enqueues what, in which form, under which key."""

    role: str
    scope: str | None
    key: str
    form: str
    type: str
    recipient: str
    replay_of: int | None

    @property
    def claim(self) -> tuple[object, ...]:
        return self.role, self.scope or "", self.key

    @property
    def content(self) -> tuple[object, ...]:
        form = "single" if self.form == "many" else self.form  # each of its messages has its own key
        return form, self.type, self.recipient, self.replay_of


@st.composite
def requests(draw: st.DrawFn) -> Request:
    type_name = draw(st.sampled_from(TYPES))
    form = draw(st.sampled_from(["single", "many", "batch"]))
    return Request(
        role="owner" if form == "batch" else draw(st.sampled_from(ROLES)),  # batches are the API's
        scope=draw(st.sampled_from(["http:ann", "http:bob"] if form == "batch" else [None, "", "http:ann"])),
        key=draw(st.sampled_from(["kk", "kk/0"])),
        form=form,
        type=type_name,
        recipient=draw(st.sampled_from(GROUPS if type_name == "alert" else EMAILS)),
        replay_of=None if form == "batch" else draw(st.sampled_from([None, None, 1, 2])),
    )


@pytest.fixture
def callers(outbox: Outbox) -> Iterator[dict[str, Connection]]:
    """Connections whose calling roles differ: the owner's, a login's, and one after SET ROLE."""
    outbox.add_type("note", **FIELDS)
    outbox.add_type("alert", channels=("email", "sms"), **FIELDS)
    login, group = (f"app_{uuid.uuid4().hex[:8]}" for _ in range(2))
    for role in (login, group):
        name = Identifier(role)
        outbox.connection.execute(SQL("CREATE ROLE {} LOGIN PASSWORD {}").format(name, Literal("secret")))
        outbox.connection.execute(SQL("GRANT USAGE ON SCHEMA backline TO {}").format(name))
        outbox.connection.execute(
            SQL("GRANT EXECUTE ON FUNCTION backline.enqueue, backline.enqueue_many TO {}").format(name)
        )
    outbox.connection.execute(SQL("GRANT {} TO {}").format(Identifier(group), Identifier(login)))
    dsn = make_conninfo(outbox.dsn, user=login, password="secret")
    try:
        with (
            psycopg.connect(dsn, autocommit=True, row_factory=dict_row) as own,
            psycopg.connect(dsn, autocommit=True, row_factory=dict_row) as changed,
        ):
            changed.execute(SQL("SET ROLE {}").format(Identifier(group)))
            yield {"owner": outbox.connection, "login": own, "set role": changed}
    finally:
        for role in (login, group):
            outbox.connection.execute(SQL("DROP OWNED BY {}").format(Identifier(role)))
            outbox.connection.execute(SQL("DROP ROLE {}").format(Identifier(role)))


def call(connection: Connection, request: Request, key: str) -> int:
    """The id of the request's (first) message or group."""
    if request.form == "batch":
        messages = [NewMessage(request.type, request.recipient, PAYLOAD), NewMessage("email", EMAILS[0], PAYLOAD)]
        with connection.transaction():
            ids = enqueue_batch(connection, messages, key, request.scope or "")
        assert len(ids) == len(set(ids)) == 2
        return ids[0]
    values: dict[str, Any] = {
        "type": request.type, "recipient": request.recipient, "payload": json.dumps(PAYLOAD), "key": key,
        "replay_of": request.replay_of, "scope": request.scope,
    }  # fmt: skip
    if request.form == "single":
        [row] = connection.execute(SINGLE, values).fetchall()
        return int(row["id"])
    values |= {"recipients": [request.recipient] * 2, "payloads": [json.dumps(PAYLOAD)] * 2, "keys": [key, key]}
    [row] = connection.execute(MANY, values).fetchall()
    assert row["ids"][0] == row["ids"][1]
    return int(row["ids"][0])


@given(steps=st.lists(requests(), min_size=2, max_size=12))
@profile(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_sequence_of_calls_is_as_in_the_model(
    callers: dict[str, Connection], outbox: Outbox, steps: list[Request]
) -> None:
    """The model: a key of a caller is its first content and id. Contents that differ in anything are refused."""
    run = uuid.uuid4().hex
    first: dict[tuple[object, ...], tuple[tuple[object, ...], int]] = {}
    for step in steps:
        key = f"{run}{step.key}"
        if step.claim not in first:
            made = call(callers[step.role], step, key)
            assert made not in {known for _, known in first.values()}
            first[step.claim] = step.content, made
            continue
        content, known = first[step.claim]
        if content == step.content:
            assert call(callers[step.role], step, key) == known
        else:
            with pytest.raises(
                (psycopg.errors.UniqueViolation, InvalidInput), match=rf"used for .* {known} with other"
            ):
                call(callers[step.role], step, key)
    stored = outbox.value("SELECT count(*) FROM backline.idempotency WHERE key LIKE %s", f"{run}%")
    assert stored == len(first)


def request(**given_: Any) -> Request:
    values = {"role": "owner", "scope": None, "key": "K", "form": "single", "type": "email", "recipient": EMAILS[0]}
    return Request(**{**values, "replay_of": None, **given_})


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (request(type="note"), request()),
        (request(type="alert", recipient=GROUPS[1]), request(type="alert", recipient=GROUPS[0])),
        (request(type="alert", recipient=GROUPS[0]), request(type="alert", recipient=GROUPS[2])),
        (request(form="batch", scope="http:ann"), request(scope="http:ann")),
        (request(scope="http:ann"), request(form="batch", scope="http:ann")),
        (request(), request(replay_of=1)),
    ],
    ids=["type", "channel", "more channels", "batch, then one", "one, then a batch", "a replay"],
)
def test_a_key_with_another_content_is_refused_and_names_the_message(
    callers: dict[str, Connection], outbox: Outbox, first: Request, second: Request
) -> None:
    known = call(callers["owner"], first, "K")
    before = outbox.value("SELECT count(*) FROM backline.message")
    with pytest.raises((psycopg.errors.UniqueViolation, InvalidInput), match=f" {known} with other content; use a new"):
        call(callers["owner"], second, "K")
    assert outbox.value("SELECT count(*) FROM backline.message") == before


def test_no_caller_can_block_anothers_key(callers: dict[str, Connection]) -> None:
    ids = {call(callers[role], request(recipient=EMAILS[n % 2]), "order:5:receipt") for n, role in enumerate(ROLES)}
    ids.add(call(callers["owner"], request(scope="http:ann"), "order:5:receipt"))
    assert len(ids) == 4


def test_an_open_transaction_holds_only_its_own_callers_key(callers: dict[str, Connection]) -> None:
    callers["owner"].execute("SET lock_timeout = '5s'")
    with callers["login"].transaction():
        call(callers["login"], request(), "K")
        assert call(callers["owner"], request(recipient=EMAILS[1]), "K") > 0


def test_the_channels_of_a_group_are_compared_as_json(callers: dict[str, Connection]) -> None:
    group = call(callers["owner"], request(type="alert", recipient=GROUPS[0]), "K")
    same = '{"sms":null,"email":"ann@example.com"}'
    assert call(callers["owner"], request(type="alert", recipient=same), "K") == group


def test_a_scope_is_limited_and_names_itself(callers: dict[str, Connection]) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="key_scope: longer than 255") as caught:
        call(callers["owner"], request(scope="x" * 256), "K")
    error = translate_error(caught.value)
    assert isinstance(error, InvalidInput)
    assert error.field == "key_scope"


def test_the_largest_key_and_scope_fit(callers: dict[str, Connection]) -> None:
    wide = "𝄞" * 255
    made = call(callers["owner"], request(scope=wide), wide)
    assert call(callers["owner"], request(scope=wide), wide) == made
