"""What recipients want, heeded by dispatchers and by runs that send, on a real database and a real SMTP server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from backline.channels.registry import definition
from backline.db.connect import Database
from backline.db.statements import statement
from backline.messages import registry
from backline.outbox import queries
from backline.outbox.maintenance import run_maintenance
from backline.outbox.recipient_policy import FilterResult, PreferenceFilter
from backline.settings import LaneSettings, settings
from tests.integration.outbox.support import PAYLOAD, Outbox, claim_from_head
from tests.integration.outbox.test_dispatcher import Catcher, drain, send, started

NORMAL = LaneSettings(channel="email")
URGENT = LaneSettings(channel="email", priority=8)
ALL_DAY = "00:00-23:59"


@pytest.fixture(scope="module")
def catcher(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Catcher]:
    made = Catcher(tmp_path_factory.mktemp("mail") / "box")
    yield made
    made.close()


@pytest.fixture
def mail(catcher: Catcher) -> Catcher:
    catcher.clear_faults()
    catcher.web.delete("/api/messages").raise_for_status()
    return catcher


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as made:
        yield made
        while started:
            served = started.pop()
            if not served.report.done():
                served.dispatcher.stop()


@pytest.fixture
def configure(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Sets settings of [preferences]."""

    def change(**preferences: Any) -> None:
        for name, value in preferences.items():
            monkeypatch.setenv(f"BACKLINE__PREFERENCES__{name.upper()}", json.dumps(value))
        settings.cache_clear()

    yield change
    monkeypatch.undo()
    settings.cache_clear()


def filter_batch(outbox: Outbox, lane: LaneSettings = NORMAL, most: int = 100) -> FilterResult:
    """A claimed batch, screened."""
    screen = PreferenceFilter(outbox.database, lane)
    return outbox.run(screen.apply(outbox.claim(most)))


def suppress(outbox: Outbox, address: str, **options: Any) -> int:
    values = {"reason": "hard_bounce", "until": None, "source": "ses", **options}
    return int(
        outbox.value(
            "SELECT backline.suppress('email', %s, reason => %s, until => %s, source => %s)",
            address, values["reason"], values["until"], values["source"],
        )
    )  # fmt: skip


def quiet_now(outbox: Outbox, address: str, zone: str = "UTC") -> None:
    """Quiet from an hour ago until in two hours, by the clock there."""
    local = datetime.now(ZoneInfo(zone))
    begin, end = ((local + timedelta(hours=hours)).strftime("%H:%M") for hours in (-1, 2))
    outbox.sql("SELECT backline.set_preference('email', %s, %s, %s, %s)", address, zone, begin, end)


def explanation(outbox: Outbox, message_id: int) -> str:
    found = queries.get_message(outbox.connection, message_id)
    assert found is not None
    return found.explanation


def timeline(outbox: Outbox, message_id: int) -> list[tuple[str, str]]:
    found = queries.get_message(outbox.connection, message_id)
    assert found is not None
    return [(event.event, event.text) for event in found.timeline]


# --- not at all ---------------------------------------------------------------------------------------------


def test_a_suppressed_address_gets_nothing_and_the_message_says_why(
    outbox: Outbox, mail: Catcher, pool: ThreadPoolExecutor
) -> None:
    suppress(outbox, "Ann Lee <ANN@example.com>")
    ann, bob = outbox.enqueue("Ann <ann@Example.com>"), outbox.enqueue("bob@example.com")
    report = drain(outbox, mail, pool)
    assert report.outcomes == {"suppressed": 1, "sent": 1}
    assert mail.recipients() == {"bob@example.com": 1}
    row = outbox.message(ann)
    assert (row["state"], row["attempt"], row["error_class"], row["lease_token"]) == ("suppressed", 0, None, None)
    assert outbox.sql("SELECT 1 AS one FROM backline.attempt WHERE message_id = %s", ann) == []
    day = f"{datetime.now(UTC):%Y-%m-%d}"
    because = f"the address is suppressed since {day}: mail to it bounced permanently (source: ses)"
    assert explanation(outbox, ann) == f"Not sent: the recipient is suppressed or has opted out ({because})."
    assert timeline(outbox, ann)[-1] == (
        "suppressed",
        f"not sent: the recipient is suppressed or has opted out ({because})",
    )
    assert outbox.message(bob)["state"] == "sent"


def test_a_suppression_ends_with_its_time(outbox: Outbox) -> None:
    suppress(outbox, "ann@example.com", until=datetime.now(UTC) + timedelta(hours=1))
    outbox.enqueue()
    assert filter_batch(outbox).suppressed == 1
    outbox.sql("UPDATE backline.suppression SET until = clock_timestamp() - interval '1 s'")
    outbox.enqueue()
    assert len(filter_batch(outbox).admitted) == 1


def test_of_two_suppressions_the_longer_is_kept(outbox: Outbox) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    first = suppress(outbox, "ann@example.com", reason="manual", until=soon)
    assert suppress(outbox, "Ann@example.com", reason="complaint") == first
    assert suppress(outbox, "ann@example.com", reason="manual", until=soon) == first
    [row] = outbox.sql("SELECT reason, until FROM backline.suppression")
    assert (row["reason"], row["until"]) == ("complaint", None)


def test_secrets_of_a_suppressed_message_are_erased(outbox: Outbox) -> None:
    outbox.add_type("secretive", secret=["token"])
    suppress(outbox, "ann@example.com")
    message = outbox.enqueue(type="secretive", payload=json.dumps({"token": "gAAAAx"}))
    assert filter_batch(outbox).suppressed == 1
    assert outbox.message(message)["payload"] == {}


def test_urgent_lanes_and_secrets_do_not_bypass_a_suppression(outbox: Outbox) -> None:
    suppress(outbox, "ann@example.com")
    outbox.enqueue()
    assert filter_batch(outbox, URGENT).suppressed == 1


@pytest.mark.parametrize(("left", "sent"), [("newsletter", False), ("*", False), ("offers", True)])
def test_an_opted_out_recipient_gets_everything_else(outbox: Outbox, left: str, *, sent: bool) -> None:
    outbox.sql("INSERT INTO backline.topic (name) VALUES ('offers') ON CONFLICT DO NOTHING")
    outbox.sql("SELECT backline.opt_out('email', 'Ann@example.com', %s)", left)
    news = outbox.enqueue(payload=json.dumps({**PAYLOAD, "topic": "newsletter"}))
    receipt = outbox.enqueue()
    assert [message.id for message in filter_batch(outbox).admitted] == ([news, receipt] if sent else [receipt])
    if not sent:
        what = "all topics" if left == "*" else "the topic newsletter"
        assert f"the recipient opted out of {what} on {datetime.now(UTC):%Y-%m-%d}" in explanation(outbox, news)


def test_a_recipient_who_opts_in_again_gets_messages(outbox: Outbox) -> None:
    for topic in ("newsletter", "*"):
        outbox.sql("SELECT backline.opt_out('email', 'ann@example.com', %s)", topic)
    outbox.sql("SELECT backline.opt_in('email', 'ann@example.com', 'newsletter')")
    outbox.enqueue(payload=json.dumps({**PAYLOAD, "topic": "newsletter"}))
    assert len(filter_batch(outbox).admitted) == 1


# --- later ----------------------------------------------------------------------------------------------------


def test_quiet_hours_defer_a_message_to_their_end_without_an_attempt(
    outbox: Outbox, mail: Catcher, pool: ThreadPoolExecutor
) -> None:
    quiet_now(outbox, "ann@example.com", "Asia/Kathmandu")
    message = outbox.enqueue()
    assert drain(outbox, mail, pool).outcomes == {"deferred": 1}
    row = outbox.message(message)
    wait = row["due_at"] - datetime.now(UTC)
    assert timedelta(minutes=118) < wait <= timedelta(hours=2)
    assert (row["state"], row["attempt"], row["rescues"], row["lease_token"]) == ("scheduled", 0, 0, None)
    assert row["due_at"].astimezone(ZoneInfo("Asia/Kathmandu")).second == 0
    assert "it was postponed (quiet hours of the recipient, " in explanation(outbox, message)
    assert timeline(outbox, message)[1][0] == "postponed"
    outbox.sql("DELETE FROM backline.recipient_preference")  # or they end
    outbox.make_due(message)
    assert drain(outbox, mail, pool).outcomes == {"sent": 1}
    assert mail.recipients() == {"ann@example.com": 1}
    assert explanation(outbox, message).startswith("Sent at ")


def test_urgent_lanes_and_types_with_secrets_do_not_wait(outbox: Outbox, configure: Any) -> None:
    configure(quiet_hours={"email": ALL_DAY}, daily_limit={"email": 1})
    quiet_now(outbox, "ann@example.com")
    outbox.enqueue()
    assert len(filter_batch(outbox, URGENT).admitted) == 1
    reset = {"name": "Ann", "token": {"$ref": "password_reset_token", "id": 1}}
    outbox.enqueue(type="password_reset", payload=json.dumps(reset))
    claimed = outbox.claim(lane="email.urgent")
    found = outbox.run(PreferenceFilter(outbox.database, NORMAL).apply(claimed))
    assert len(found.admitted) == 1


def test_the_settings_hours_are_in_each_recipients_time_zone(outbox: Outbox, configure: Any) -> None:
    now = datetime.now(UTC)
    hours = "-".join((now + timedelta(hours=add)).strftime("%H:%M") for add in (-1, 1))
    configure(quiet_hours={"email": hours})
    here = outbox.enqueue("here@example.com")
    outbox.sql("SELECT backline.set_preference('email', 'far@example.com', 'Pacific/Kiritimati')")  # 14 hours ahead
    far = outbox.enqueue("far@example.com")
    outbox.sql("SELECT backline.set_preference('email', 'never@example.com', NULL, '09:00', '09:00')")
    never = outbox.enqueue("never@example.com")
    by_payload = outbox.enqueue(
        "paid@example.com", type="report_ready", payload=json.dumps({**REPORT, "zone": "Pacific/Kiritimati"})
    )
    assert [message.id for message in filter_batch(outbox).admitted] == [far, never, by_payload]
    assert outbox.message(here)["error"].endswith(" in UTC")


REPORT = registry.get("report_ready").sample()


def test_a_daily_limit_defers_the_rest_to_the_next_day(outbox: Outbox, configure: Any) -> None:
    configure(daily_limit={"email": 2})
    outbox.sql("SELECT backline.set_preference('email', 'bob@example.com', 'Europe/Berlin', per_day => 1)")
    outbox.sql("SELECT backline.set_preference('email', 'cid@example.com', per_day => 0)")
    ids = [outbox.enqueue(f"{name}@example.com") for name in ("ann", "ann", "bob", "ann", "bob", "cid", "cid", "cid")]
    found = filter_batch(outbox)
    assert [message.id for message in found.admitted] == [ids[place] for place in (0, 1, 2, 5, 6, 7)]
    assert found.deferred == 2
    ann, bob = outbox.message(ids[3]), outbox.message(ids[4])
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    assert ann["due_at"] == tomorrow
    assert bob["due_at"].astimezone(ZoneInfo("Europe/Berlin")).strftime("%H:%M:%S") == "00:00:00"
    assert ann["error"] == "the recipient gets at most 2 messages a day"


def test_a_message_counts_once_however_often_it_is_claimed(outbox: Outbox, configure: Any) -> None:
    configure(daily_limit={"email": 2})
    ids = [outbox.enqueue() for _ in range(2)]
    for _ in range(3):
        messages = filter_batch(outbox).admitted
        assert [message.id for message in messages] == ids
        outbox.run(outbox.store.return_unsent(messages))
    later = outbox.enqueue()
    assert [message.id for message in filter_batch(outbox).admitted] == ids
    assert outbox.message(later)["state"] == "scheduled"


def test_two_dispatchers_share_a_limit_exactly(outbox: Outbox, configure: Any) -> None:
    import asyncio

    configure(daily_limit={"email": 7})
    for _ in range(30):
        outbox.enqueue()
    batches = [outbox.claim(10) for _ in range(3)]

    async def at_once() -> list[FilterResult]:
        databases = [Database(outbox.dsn, name=f"screen {number}", retry_timeout=0) for number in range(3)]
        try:
            return await asyncio.gather(
                *(PreferenceFilter(one, NORMAL).apply(batch) for one, batch in zip(databases, batches, strict=True))
            )
        finally:
            for one in databases:
                await one.close()

    assert sum(len(found.admitted) for found in outbox.run(at_once())) == 7


def test_a_message_with_a_cancellation_request_is_cancelled(outbox: Outbox) -> None:
    suppress(outbox, "ann@example.com")
    quiet_now(outbox, "bob@example.com")
    ids = [outbox.enqueue("ann@example.com"), outbox.enqueue("bob@example.com")]
    messages = outbox.claim()
    for message_id in ids:
        assert outbox.cancel(message_id) == "leased"
    assert outbox.run(PreferenceFilter(outbox.database, NORMAL).apply(messages)).admitted == []
    assert outbox.state_counts() == {"cancelled": 2}


def test_a_lease_that_was_taken_over_changes_nothing(outbox: Outbox) -> None:
    suppress(outbox, "ann@example.com")
    message = outbox.enqueue()
    messages = outbox.claim()
    outbox.expire_leases(message)
    outbox.rescue()
    assert outbox.run(PreferenceFilter(outbox.database, NORMAL).apply(messages)).suppressed == 1
    assert outbox.message(message)["state"] == "pending"


def test_rescued_messages_are_filtered_too(outbox: Outbox, mail: Catcher, pool: ThreadPoolExecutor) -> None:
    message = outbox.enqueue()
    outbox.claim()
    outbox.expire_leases(message)
    outbox.rescue()
    suppress(outbox, "ann@example.com")
    assert drain(outbox, mail, pool).outcomes == {"suppressed": 1}


def test_a_drain_continues_after_a_batch_without_admitted_messages(
    outbox: Outbox, mail: Catcher, pool: ThreadPoolExecutor
) -> None:
    suppress(outbox, "ann@example.com")
    for _ in range(120):
        outbox.enqueue(priority=9)
    outbox.enqueue("bob@example.com", priority=1)
    assert drain(outbox, mail, pool).outcomes == {"suppressed": 120, "sent": 1}


# --- runs that send -------------------------------------------------------------------------------------------


def test_a_run_applies_preferences_too(outbox: Outbox, mail: Catcher) -> None:
    suppress(outbox, "ann@example.com", reason="complaint", source="mailgun")
    result = send(outbox, mail)
    assert (result.state, result.final, result.attempt) == ("suppressed", True, 0)
    assert "its owner reported a message as spam (source: mailgun)" in str(result.error)
    quiet_now(outbox, "bob@example.com")
    result = send(outbox, mail, key="dag/other", recipient="bob@example.com")
    assert (result.state, result.final) == ("scheduled", False)
    assert 7000 < result.due_in <= 7200
    assert "quiet hours of the recipient" in str(result.error)
    assert mail.recipients() == {}


# --- what it costs --------------------------------------------------------------------------------------------


def test_without_preferences_no_query_runs(outbox: Outbox) -> None:
    outbox.enqueue_many(10)
    messages = outbox.claim()
    nowhere = PreferenceFilter(Database("host=127.0.0.1 port=1", name="nowhere", retry_timeout=0), NORMAL)
    assert outbox.run(nowhere.apply(messages)) == FilterResult(messages)


def test_a_claim_touches_three_empty_tables_and_no_more(outbox: Outbox) -> None:
    outbox.enqueue_many(1500)
    outbox.claim(500)
    plan = outbox.connection.execute(
        "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + statement("outbox", "message_claim"), claim_from_head(500)
    ).fetchone()
    assert plan is not None
    looks = [node for node in nodes(plan["QUERY PLAN"][0]["Plan"]) if node.get("Relation Name") in WISHED]
    assert {node["Relation Name"] for node in looks} == WISHED
    assert all(node["Actual Loops"] == 1 for node in looks)
    assert sum(node["Shared Hit Blocks"] + node["Shared Read Blocks"] for node in looks) == 0


def test_preferences_are_found_by_index_whatever_is_in_the_tables(outbox: Outbox) -> None:
    outbox.sql(
        "INSERT INTO backline.suppression (channel, address, reason, source)"
        " SELECT 'email', 's' || n || '@example.com', 'manual', 'test' FROM generate_series(1, 20000) AS n"
    )
    outbox.sql(
        "INSERT INTO backline.opt_out (channel, address, topic, source)"
        " SELECT 'email', 'o' || n || '@example.com', 'newsletter', 'test' FROM generate_series(1, 20000) AS n"
    )
    outbox.sql("ANALYZE backline.suppression, backline.opt_out")
    recipients = [{"address": f"s{number}@example.com", "topic": "newsletter"} for number in range(1, 501)]
    asked = {"channel": "email", "recipients": json.dumps(recipients), "include_unknown": False}
    plan = outbox.connection.execute(
        "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) " + statement("preferences", "recipient_preferences"), asked
    ).fetchone()
    assert plan is not None
    top = plan["QUERY PLAN"][0]["Plan"]
    assert top["Actual Rows"] == 500
    assert top["Shared Hit Blocks"] + top["Shared Read Blocks"] <= 10 * 500
    assert not [node for node in nodes(top) if node["Node Type"] == "Seq Scan" and node["Actual Rows"] > 1000]


WISHED = {"suppression", "opt_out", "recipient_preference"}


def nodes(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for inner in plan.get("Plans", ()):
        yield from nodes(inner)


# --- the rest -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channel", "address"),
    [
        ("email", "Ann Lee <ANN@Example.com>"),
        ("email", '"Lee, Ann" <ann@example.com> '),
        ("email", " ann@example.com"),
        ("sms", "+49 (170) 123-4567"),
        ("push", " fCm:Token "),
        ("webhook", "https://shop.example/Hook"),
    ],
)
def test_sql_and_python_know_an_address_by_the_same_key(outbox: Outbox, channel: str, address: str) -> None:
    assert outbox.value("SELECT backline.address_key(%s, %s)", channel, address) == definition(channel).address_key(
        address
    )


def test_old_events_and_daily_counts_are_pruned(outbox: Outbox) -> None:
    quiet_now(outbox, "ann@example.com")
    outbox.enqueue()
    filter_batch(outbox)
    outbox.sql("UPDATE backline.delivery_event SET received_at = received_at - interval '31 days'")
    outbox.sql(
        "INSERT INTO backline.daily_send_count VALUES ('email', 'a@b.c', current_date - 4, 1, '{1}'), ('email', 'a@b.c', current_date, 1, '{1}')"
    )
    report = run_maintenance(outbox.dsn)
    assert (report["events_pruned"], report["daily_send_counts_pruned"]) == (1, 1)
    assert outbox.value("SELECT count(*) FROM backline.daily_send_count") == 1


def test_invalid_preferences_are_refused_by_the_database(outbox: Outbox) -> None:
    import psycopg

    for query in (
        "SELECT backline.set_preference('email', 'ann@example.com', 'Europe/Nowhere')",
        "SELECT backline.set_preference('email', 'ann@example.com', 'UTC', '21:00')",
        "SELECT backline.suppress('email', '')",
        "SELECT backline.suppress('email', 'ann@example.com', 'dislike')",
    ):
        with pytest.raises(psycopg.Error):
            outbox.connection.execute(query)
