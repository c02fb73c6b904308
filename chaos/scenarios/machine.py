"""A worker whose disk takes no more logs, and one whose clock is an hour off."""

from __future__ import annotations

import resource
import subprocess
import sys

from backline.errors import UnknownFailure
from chaos.scenario import Scenario, Tolerances
from chaos.stack_environment import StackEnvironment

LOG_BYTES = 4096
CLOCK_SHIFT = "1h"
SCHEDULED_MESSAGES = "SELECT FROM backline.message WHERE finalized_at IS NULL AND due_at > now() LIMIT 1"
TIME_VIOLATIONS = {
    "were sent before they were due": """
        SELECT count(*) FROM backline.message AS m JOIN backline.attempt AS a ON a.message_id = m.id
        WHERE m.recipient LIKE %s AND a.started_at < m.due_at""",
    "bear the wrong clock's time": """
        SELECT count(*) FROM backline.message AS m JOIN backline.attempt AS a ON a.message_id = m.id
        WHERE m.recipient LIKE %s AND (abs(extract(epoch FROM m.finalized_at - now())) > 1800
            OR abs(extract(epoch FROM a.started_at - now())) > 1800)""",
}


def _no_log_space(arena: StackEnvironment) -> Tolerances:
    for process in arena.service_processes(
        "scheduler"
    ):  # the executor's workers, and so the tasks, have it from here on
        process.rlimit(resource.RLIMIT_FSIZE, (LOG_BYTES, LOG_BYTES))
    rule = {"stage": "rcpt", "action": "reply", "reply": "450 4.2.1 try later", "probability": 0.3, "seed": 1}
    arena.mail.set_faults(rule)  # each refusal is a line in the log
    with arena.background_load():
        arena.wait_received(arena.full_or_short(1500, 300))
    arena.mail.set_faults()
    arena.wait_finalized()
    return Tolerances(0)


def _clock_skew(arena: StackEnvironment) -> Tolerances:
    arena.stack_copy.stack.supervisor.stop("triggerer")
    arena.stop_dispatchers()
    size = arena.full_or_short(500, 100)
    arena.producer.enqueue(size)
    due = [arena.producer.recipient() for _ in range(50)]
    for recipient in due:
        arena.query(
            "SELECT backline.enqueue('email', %s, %s::jsonb, due_at => clock_timestamp() + interval '15 s',"
            " expires_at => clock_timestamp() + interval '10 min')",
            recipient, '{"subject": "In time", "text": "Neither early nor too late."}',
        )  # fmt: skip
    arena.producer.record_accepted(*due)
    for shift in ("+", "-"):
        _dispatch_with_clock_skew(arena, f"{shift}{CLOCK_SHIFT}")
    arena.wait_until(lambda: not arena.query(SCHEDULED_MESSAGES), "what is due later", 60)
    for shift in ("-", "+"):
        _dispatch_with_clock_skew(arena, f"{shift}{CLOCK_SHIFT}")
    arena.stack_copy.stack.supervisor.start("triggerer")
    for what, query in TIME_VIOLATIONS.items():
        if wrong := arena.query(query, f"%@{arena.domain}")[0][0]:
            raise UnknownFailure(f"{wrong} messages {what}")
    return Tolerances(0)


def _dispatch_with_clock_skew(arena: StackEnvironment, shift: str) -> None:
    """`airflow dags test dispatch_email` in a process whose clock is off."""
    exports = arena.stack_copy.stack.subprocess_environment("airflow_by_hand")
    shifted = {
        "LD_PRELOAD": str(arena.tools.faketime_library()), "FAKETIME": shift, "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "PYTHONPATH": f"{arena.stack_copy.project / 'plugins'}:{arena.stack_copy.project}",
    }  # fmt: skip
    arena.report(f"a dispatcher whose clock is {shift} off")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "airflow", "dags", "test", "dispatch_email"],
        check=False, cwd=arena.stack_copy.project, env={**exports, **shifted}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    if done.returncode:
        raise UnknownFailure(f"the dispatcher with a clock {shift} off failed: {done.stderr[-500:]}")


SCENARIOS = (
    Scenario("no-log-space", "a worker can write no more logs", _no_log_space),
    Scenario("clock-off", "a worker's clock is an hour ahead, another's an hour behind", _clock_skew),
)
