"""A worker whose disk takes no more logs, and one whose clock is an hour off."""

from __future__ import annotations

import resource
import subprocess
import sys

from backline.errors import UnknownFailure
from chaos.scenario import Bounds, Scenario
from chaos.stack_arena import StackArena

LOG_BYTES = 4096
HOUR = "1h"
NOT_YET_DUE = "SELECT FROM backline.message WHERE finalized_at IS NULL AND due_at > now() LIMIT 1"
WRONG_TIMES = {
    "were sent before they were due": """
        SELECT count(*) FROM backline.message AS m JOIN backline.attempt AS a ON a.message_id = m.id
        WHERE m.recipient LIKE %s AND a.started_at < m.due_at""",
    "bear the wrong clock's time": """
        SELECT count(*) FROM backline.message AS m JOIN backline.attempt AS a ON a.message_id = m.id
        WHERE m.recipient LIKE %s AND (abs(extract(epoch FROM m.finalized_at - now())) > 1800
            OR abs(extract(epoch FROM a.started_at - now())) > 1800)""",
}


def _no_space(arena: StackArena) -> Bounds:
    for process in arena.processes("scheduler"):  # the executor's workers, and so the tasks, have it from here on
        process.rlimit(resource.RLIMIT_FSIZE, (LOG_BYTES, LOG_BYTES))
    rule = {"stage": "rcpt", "action": "reply", "reply": "450 4.2.1 try later", "probability": 0.3, "seed": 1}
    arena.mail.set_faults(rule)  # each refusal is a line in the log
    with arena.load():
        arena.wait_arrived(arena.pick(1500, 300))
    arena.mail.set_faults()
    arena.wait_ended()
    return Bounds(0)


def _clock(arena: StackArena) -> Bounds:
    arena.copy.stack.supervisor.stop("triggerer")
    arena.stop_dispatchers()
    size = arena.pick(500, 100)
    arena.producer.put(size)
    due = [arena.producer.recipient() for _ in range(50)]
    for recipient in due:
        arena.query(
            "SELECT backline.enqueue('email', %s, %s::jsonb, due_at => clock_timestamp() + interval '15 s',"
            " expires_at => clock_timestamp() + interval '10 min')",
            recipient, '{"subject": "In time", "text": "Neither early nor too late."}',
        )  # fmt: skip
    arena.producer.accept(*due)
    for shift in ("+", "-"):
        _dispatch(arena, f"{shift}{HOUR}")
    arena.wait(lambda: not arena.query(NOT_YET_DUE), "what is due later", 60)
    for shift in ("-", "+"):
        _dispatch(arena, f"{shift}{HOUR}")
    arena.copy.stack.supervisor.start("triggerer")
    for what, query in WRONG_TIMES.items():
        if wrong := arena.query(query, f"%@{arena.domain}")[0][0]:
            raise UnknownFailure(f"{wrong} messages {what}")
    return Bounds(0)


def _dispatch(arena: StackArena, shift: str) -> None:
    """`airflow dags test dispatch_email` in a process whose clock is off."""
    exports = arena.copy.stack.environment("airflow_by_hand")
    shifted = {
        "LD_PRELOAD": str(arena.tools.faketime()), "FAKETIME": shift, "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "PYTHONPATH": f"{arena.copy.project / 'plugins'}:{arena.copy.project}",
    }  # fmt: skip
    arena.report(f"a dispatcher whose clock is {shift} off")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "airflow", "dags", "test", "dispatch_email"],
        check=False, cwd=arena.copy.project, env={**exports, **shifted}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    if done.returncode:
        raise UnknownFailure(f"the dispatcher with a clock {shift} off failed: {done.stderr[-500:]}")


SCENARIOS = (
    Scenario("no-log-space", "a worker can write no more logs", _no_space),
    Scenario("clock-off", "a worker's clock is an hour ahead, another's an hour behind", _clock),
)
