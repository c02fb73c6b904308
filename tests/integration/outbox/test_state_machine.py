"""Whatever happens in whatever order: nothing is lost, nothing ends twice, no old lease counts.

The model is the producer's own list of ids and what each call returned; the database is real.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from backline.outbox.store import LeasedMessage, Outcome
from tests.integration.outbox.support import MAX_RESCUES, Outbox, failed_outcome, finished_outcome

FINAL = {"sent", "suppressed", "cancelled", "expired", "dead"}
WAITING = {"scheduled", "pending"}
END: list[tuple[str, Callable[[LeasedMessage], Outcome]]] = [
    ("sent", finished_outcome),
    ("dead", lambda message: failed_outcome(message, dead=True)),
    ("scheduled", failed_outcome),
]
some = st.integers(0, 10**6)


class OutboxMachine(RuleBasedStateMachine):
    outbox: Outbox

    def __init__(self) -> None:
        super().__init__()
        self.outbox.truncate()
        self.made: set[int] = set()
        self.leases: dict[int, tuple[LeasedMessage, int | None]] = {}
        self.lost: list[LeasedMessage] = []
        self.final: dict[int, str] = {}
        self.finished = 0
        self.dispatchers: list[int] = [self.outbox.dispatcher(), self.outbox.dispatcher()]

    # What the model believes of one message, and what the database returns.

    def state(self, message_id: int) -> str:
        return str(self.outbox.message(message_id)["state"])

    def held(self, pick: int) -> tuple[LeasedMessage, int | None]:
        return self.leases[sorted(self.leases)[pick % len(self.leases)]]

    def one_of(self, pick: int) -> int:
        return sorted(self.made)[pick % len(self.made)]

    def record_released(self, message: LeasedMessage) -> None:
        """Its lease is over, however that came."""
        self.leases.pop(message.id)
        self.lost.append(message)

    def record_claimed(self, messages: list[LeasedMessage], dispatcher: int | None) -> None:
        for message in messages:
            assert message.id in self.made
            assert message.id not in self.leases, "claimed although it is leased"
            assert message.id not in self.final, "claimed although final"
            self.leases[message.id] = (message, dispatcher)

    def ended(self, message_id: int, state: str) -> None:
        assert message_id not in self.final
        self.final[message_id] = state

    @initialize()
    def begin_at_work(self) -> None:
        """Most rules need messages in hand: without a start most steps would find nothing to do."""
        self.enqueue(3, None, later=False, expires=True)
        self.claim(2, 0)

    # --- the producer

    @rule(
        count=st.integers(1, 3),
        priority=st.sampled_from([None, 1, 10]),
        later=st.booleans(),
        expires=st.booleans(),
    )
    def enqueue(self, count: int, priority: int | None, *, later: bool, expires: bool) -> None:
        now = datetime.now(UTC)
        for _ in range(count):
            self.made.add(
                self.outbox.enqueue(
                    priority=priority,
                    due_at=now + timedelta(seconds=30) if later else None,
                    expires_at=now + timedelta(hours=1) if expires else None,
                )
            )

    @precondition(lambda self: self.made)
    @rule(pick=some)
    def cancel(self, pick: int) -> None:
        message_id = self.one_of(pick)
        before = self.state(message_id)
        state = self.outbox.cancel(message_id)
        if before in WAITING:
            assert state == "cancelled"
            self.ended(message_id, "cancelled")
        else:
            assert state == ("leased" if before == "leased" else None)

    @precondition(lambda self: self.leases)
    @rule(pick=some)
    def cancel_in_hand(self, pick: int) -> None:
        assert self.outbox.cancel(self.held(pick)[0].id) == "leased"

    @precondition(lambda self: "dead" in self.final.values())
    @rule(pick=some)
    def revive(self, pick: int) -> None:
        dead = sorted(message_id for message_id, state in self.final.items() if state == "dead")
        message_id = dead[pick % len(dead)]
        assert self.outbox.retry(message_id)
        del self.final[message_id]

    # --- dispatchers

    @rule(most=st.integers(1, 4), which=st.integers(0, 1))
    def claim(self, most: int, which: int) -> None:
        dispatcher = self.dispatchers[which]
        self.record_claimed(self.outbox.claim(most, dispatcher), dispatcher)

    @rule(which=st.integers(0, 1))
    def claim_rescued(self, which: int) -> None:
        dispatcher = self.dispatchers[which]
        self.record_claimed(self.outbox.claim_rescued(dispatcher), dispatcher)

    @precondition(lambda self: self.leases)
    @rule(pick=some, how=st.sampled_from(END), all_at_once=st.booleans())
    def complete(self, pick: int, how: tuple[str, Callable[[LeasedMessage], Outcome]], *, all_at_once: bool) -> None:
        messages = [message for message, _ in self.leases.values()] if all_at_once else [self.held(pick)[0]]
        state, outcome = how
        cancelled = {message.id for message in messages if self.outbox.message(message.id)["cancel_requested"]}
        states = self.outbox.complete(*map(outcome, messages))
        for message in messages:
            expected = "cancelled" if state == "scheduled" and message.id in cancelled else state
            assert states[message.id] == expected
            self.record_released(message)
            self.finished += 1
            if expected in FINAL:
                self.ended(message.id, expected)

    @precondition(lambda self: self.lost)
    @rule(pick=some, how=st.sampled_from(END))
    def complete_too_late(self, pick: int, how: tuple[str, Callable[[LeasedMessage], Outcome]]) -> None:
        message = self.lost[pick % len(self.lost)]
        before = self.outbox.message(message.id)
        assert self.outbox.complete(how[1](message)) == {}
        assert self.outbox.run(self.outbox.store.return_unsent([message])) == 0
        assert self.outbox.run(self.outbox.store.defer([(message, 1.0)])) == 0
        assert self.outbox.run(self.outbox.store.renew([message], 60.0)) == 0
        assert self.outbox.message(message.id) == before

    @precondition(lambda self: self.leases)
    @rule(pick=some, defer=st.booleans())
    def return_unsent(self, pick: int, *, defer: bool) -> None:
        message, _ = self.held(pick)
        cancelled = self.outbox.message(message.id)["cancel_requested"]
        store = self.outbox.store
        assert self.outbox.run(store.defer([(message, 30.0)]) if defer else store.return_unsent([message])) == 1
        self.record_released(message)
        if cancelled:
            assert self.state(message.id) == "cancelled", "its cancellation was forgotten"
            self.ended(message.id, "cancelled")

    @precondition(lambda self: self.leases)
    @rule(pick=some)
    def renew(self, pick: int) -> None:
        assert self.outbox.run(self.outbox.store.renew([self.held(pick)[0]], 60.0)) == 1

    # --- failures and recovery

    @precondition(lambda self: self.leases)
    @rule(pick=some)
    def lease_runs_out(self, pick: int) -> None:
        message, _ = self.held(pick)
        self.outbox.expire_leases(message.id)
        self.rescued({message.id})

    @rule(which=st.integers(0, 1))
    def dispatcher_dies(self, which: int) -> None:
        dead = self.dispatchers[which]
        self.outbox.stop_heartbeat(dead)
        self.rescued({message.id for message, dispatcher in self.leases.values() if dispatcher == dead})
        self.dispatchers[which] = self.outbox.dispatcher()

    def rescued(self, expected: set[int]) -> None:
        before = {message_id: self.outbox.message(message_id) for message_id in expected}
        assert self.outbox.rescue() == len(expected)
        for message_id, row in before.items():
            after = self.outbox.message(message_id)
            too_often = row["rescues"] >= MAX_RESCUES
            wanted = "cancelled" if row["cancel_requested"] else "dead" if too_often else "pending"
            assert (after["state"], after["rescues"], after["attempt"]) == (wanted, row["rescues"] + 1, row["attempt"])
            self.record_released(self.leases[message_id][0])
            if wanted in FINAL:
                self.ended(message_id, wanted)

    @precondition(lambda self: self.made)
    @rule(pick=some)
    def come_due(self, pick: int) -> None:
        message_id = self.one_of(pick)
        if self.state(message_id) != "scheduled":
            return
        self.outbox.make_due(message_id)
        assert self.outbox.run(self.outbox.store.promote()) == 1
        assert self.state(message_id) == "pending"

    @precondition(lambda self: self.made)
    @rule(pick=some)
    def expire(self, pick: int) -> None:
        message_id = self.one_of(pick)
        if self.state(message_id) not in WAITING or self.outbox.message(message_id)["expires_at"] is None:
            return
        self.outbox.sql(
            "UPDATE backline.message SET expires_at = clock_timestamp() - interval '1 s' WHERE id = %s", message_id
        )
        assert self.outbox.run(self.outbox.store.expire()) == 1
        self.ended(message_id, "expired")

    # --- what always holds

    @invariant()
    def nothing_is_lost_and_what_is_final_stays(self) -> None:
        rows = {
            row["id"]: row
            for row in self.outbox.sql("SELECT id, state, finalized_at, lease_token FROM backline.message")
        }
        assert set(rows) == self.made
        assert {message_id: row["state"] for message_id, row in rows.items() if row["state"] in FINAL} == self.final
        held = {message_id: row["lease_token"] for message_id, row in rows.items() if row["state"] == "leased"}
        assert held == {message_id: message.token for message_id, (message, _) in self.leases.items()}
        for row in rows.values():
            assert (row["finalized_at"] is not None) == (row["state"] in FINAL)
            assert (row["lease_token"] is not None) == (row["state"] == "leased")

    @invariant()
    def every_end_of_a_try_is_written_down_once(self) -> None:
        [row] = self.outbox.sql(
            """
            SELECT count(*) FILTER (WHERE outcome <> 'rescued') AS written,
                count(DISTINCT (message_id, number)) FILTER (WHERE outcome <> 'rescued') AS different,
                count(*) FILTER (WHERE outcome = 'rescued') AS rescues_written,
                (SELECT coalesce(sum(attempt), 0) FROM backline.message) AS counted,
                (SELECT coalesce(sum(rescues), 0) FROM backline.message) AS rescues
            FROM backline.attempt
            """
        )
        assert row["written"] == row["different"] == row["counted"] == self.finished
        assert row["rescues_written"] == row["rescues"]

    @invariant()
    def accepted_is_accounted_for(self) -> None:
        total: dict[str, Any] = {"accepted": 0, "missing": 0}
        for row in self.outbox.run_statement("ledger_conservation", since=datetime.now(UTC).date() - timedelta(days=2)):
            states = sum(row[state] for state in (*FINAL, *WAITING, "leased", "pruned"))
            assert states + row["missing"] == row["accepted"]
            total["accepted"] += row["accepted"]
            total["missing"] += row["missing"]
        assert total == {"accepted": len(self.made), "missing": 0}


@pytest.mark.timeout(120)
def test_the_outbox_under_any_sequence_of_events(outbox: Outbox) -> None:
    class Machine(OutboxMachine):
        pass

    Machine.outbox = outbox
    run_state_machine_as_test(
        Machine,
        settings=settings(
            max_examples=25,
            stateful_step_count=40,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
