"""A message that cannot be enqueued undoes nothing: it becomes a dead letter that can be replayed, corrected or discarded."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from backline.airflow.params import params_for
from backline.dead_letters.actions import discard, replay
from backline.dead_letters.store import DeadLetterStore, Filter
from backline.dead_letters.unsent import enqueue_or_record
from backline.errors import DatabaseFailure
from backline.messages import registry
from backline.messages.run_conf import split_conf
from tests.integration.dead_letters.support import FakeAirflow

KIND = registry.get("order_confirmation")
PHONE = "+4915112345678"
RAISE = """CREATE FUNCTION public.fail() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN RAISE EXCEPTION 'the app refuses it' USING ERRCODE = '{}'; END $$;
    CREATE TRIGGER fail BEFORE INSERT ON backline.message FOR EACH ROW EXECUTE FUNCTION public.fail()"""


def send(
    store: DeadLetterStore, recipient: str | dict[str, str], key: str = "order:1:confirmation", **changed: Any
) -> int:
    """Enqueue beside other work; how many dead letters that gave."""
    with store.connection.transaction():
        store.connection.execute("INSERT INTO public.work VALUES (1)")
        return enqueue_or_record(store.connection, KIND.type_name, recipient, {**KIND.example, **changed}, key=key)


@pytest.fixture(autouse=True)
def _work(store: DeadLetterStore) -> None:
    store.connection.execute("CREATE TABLE public.work (id int)")


def rows(store: DeadLetterStore, query: str) -> list[tuple[Any, ...]]:
    return [tuple(row.values()) for row in store.connection.execute(query).fetchall()]


def enqueued(store: DeadLetterStore) -> dict[str, str]:
    return dict(rows(store, "SELECT channel, recipient FROM backline.message"))


def test_a_refused_address_leaves_the_work_and_a_dead_letter(store: DeadLetterStore) -> None:
    assert send(store, {"email": "no.such@address"}) == 1
    assert (enqueued(store), rows(store, "SELECT id FROM public.work")) == ({}, [(1,)])
    [letter] = store.iterate(Filter())
    assert (letter["kind"], letter["name"], letter["run_id"], letter["state"]) == (
        "job", "send_order_confirmation", "order:1:confirmation", "open",
    )  # fmt: skip
    assert letter["cause"].startswith("recipient: not an email address")
    assert (letter["class"], letter["conf"]["to"]) == ("validation", {"email": "no.such@address"})


@pytest.mark.parametrize(
    ("recipient", "sent", "key"),
    [
        ({"email": "ann@example.com", "sms": "+0"}, {"email": "ann@example.com"}, "order:1:confirmation by sms"),
        ({"email": "a,b@example.com", "sms": PHONE}, {"sms": PHONE}, "order:1:confirmation by email"),
    ],
)
def test_one_refused_address_does_not_keep_the_other_from_its_message(
    recipient: dict[str, str], sent: dict[str, str], key: str, store: DeadLetterStore
) -> None:
    assert send(store, recipient) == 1
    assert enqueued(store) == sent
    assert [letter["run_id"] for letter in store.iterate(Filter())] == [key]


def test_a_message_has_one_dead_letter_however_often_it_fails(store: DeadLetterStore) -> None:
    for key in ("order:1:confirmation", "order:1:confirmation", "order:2:confirmation"):
        send(store, {"email": "a,b@example.com"}, key)
    assert len(list(store.iterate(Filter()))) == 2


def test_a_replay_sends_the_message_with_what_was_corrected(store: DeadLetterStore, airflow: FakeAirflow) -> None:
    send(store, {"email": "a,b@example.com"}, name="Ann\tLee")
    [letter] = store.iterate(Filter())
    airflow.params = dict(params_for(KIND))
    done = replay(store, airflow, letter["id"], by="ann", edited={**letter["conf"], "to": {"email": "ab@example.com"}})
    [(run, conf)] = airflow.started.items()
    assert (run.partition("/")[0], done.reference) == ("send_order_confirmation", f"run {run}")
    recipient, payload, _ = split_conf(KIND, conf)  # as the run does
    assert (recipient, KIND.parse(payload).name) == ('{"email": "ab@example.com"}', "Ann Lee")  # type: ignore[attr-defined]
    assert store.get(letter["id"])["state"] == "replayed"


def test_it_can_be_discarded(store: DeadLetterStore) -> None:
    send(store, {"email": "a,b@example.com"})
    [letter] = store.iterate(Filter())
    discard(store, letter["id"], by="ann", reason="no such customer")
    assert store.get(letter["id"])["state"] == "discarded"


def test_an_amount_that_no_message_can_have_and_an_error_of_the_database_are_recorded(store: DeadLetterStore) -> None:
    assert send(store, {"email": "ann@example.com"}, total=10**15) == 1
    store.connection.execute(RAISE.format("P0001"))
    assert send(store, {"email": "ann@example.com"}, "order:2:confirmation") == 1
    causes = [letter["cause"] for letter in store.iterate(Filter())]
    assert causes[0] == "database: the app refuses it"
    assert causes[1].startswith("total: ")
    assert rows(store, "SELECT id FROM public.work") == [(1,), (1,)]


def test_what_may_pass_is_raised_so_that_the_transaction_is_repeated(store: DeadLetterStore) -> None:
    store.connection.execute(RAISE.format("40001"))
    with pytest.raises(DatabaseFailure):
        send(store, {"email": "ann@example.com"})
    assert (rows(store, "SELECT id FROM public.work"), list(store.iterate(Filter()))) == ([], [])


def test_even_without_the_table_of_dead_letters_the_work_is_done(store: DeadLetterStore) -> None:
    store.connection.execute("ALTER TABLE backline.dead_letter ADD CONSTRAINT none CHECK (kind <> 'job')")
    assert send(store, {"email": "a,b@example.com"}) == 1
    assert rows(store, "SELECT id FROM public.work") == [(1,)]
    assert store.connection.info.transaction_status is psycopg.pq.TransactionStatus.IDLE
