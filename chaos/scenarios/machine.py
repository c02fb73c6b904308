"""A worker without disk space for logs, and workers whose clocks are an hour off."""

from __future__ import annotations

import resource
import subprocess
import sys

from backline.errors import UnknownFailure
from chaos.scenario import Scenario, Tolerances
from chaos.stack_environment import StackEnvironment
from stack.postgres import MANUAL_RUN_DATABASE

LOG_BYTES = 4096
CLOCK_SHIFT = "1h"
SCHEDULED_MESSAGES = "SELECT FROM backline.message WHERE finalized_at IS NULL AND due_at > now() LIMIT 1"
TIME_VIOLATIONS = {
    "were sent before they were due": """
        SELECT count(*) FROM backline.message AS m JOIN backline.attempt AS a ON a.message_id = m.id
        WHERE m.recipient LIKE %s AND a.started_at < m.due_at""",
    "have timestamps of the wrong clock": """
        SELECT count(*) FROM backline.message AS m JOIN backline.attempt AS a ON a.message_id = m.id
        WHERE m.recipient LIKE %s AND (abs(extract(epoch FROM m.finalized_at - now())) > 1800
            OR abs(extract(epoch FROM a.started_at - now())) > 1800)""",
}


def _no_log_space(env: StackEnvironment) -> Tolerances:
    for process in env.service_processes("scheduler"):  # tasks inherit it from the executor's workers
        process.rlimit(resource.RLIMIT_FSIZE, (LOG_BYTES, LOG_BYTES))
    rule = {"stage": "rcpt", "action": "reply", "reply": "450 4.2.1 try later", "probability": 0.3, "seed": 1}
    env.mail.set_faults(rule)  # each rejection is a line in the log
    with env.background_load():
        env.wait_received(env.full_or_short(1500, 300))
    env.mail.set_faults()
    env.wait_finalized()
    return Tolerances(0)


def _clock_skew(env: StackEnvironment) -> Tolerances:
    env.stack_copy.stack.supervisor.stop("triggerer")
    env.stop_dispatchers()
    size = env.full_or_short(500, 100)
    env.producer.enqueue(size)
    due = [env.producer.recipient() for _ in range(50)]
    for recipient in due:
        env.query(
            "SELECT backline.enqueue('email', %s, %s::jsonb, due_at => clock_timestamp() + interval '15 s',"
            " expires_at => clock_timestamp() + interval '10 min')",
            recipient, '{"subject": "In time", "text": "Neither early nor late."}',
        )  # fmt: skip
    env.producer.record_accepted(*due)
    for shift in ("+", "-"):
        _dispatch_with_clock_skew(env, f"{shift}{CLOCK_SHIFT}")
    env.wait_until(lambda: not env.query(SCHEDULED_MESSAGES), "the scheduled messages to become due", 60)
    for shift in ("-", "+"):
        _dispatch_with_clock_skew(env, f"{shift}{CLOCK_SHIFT}")
    env.stack_copy.stack.supervisor.start("triggerer")
    for violation, query in TIME_VIOLATIONS.items():
        if count := env.query(query, f"%@{env.domain}")[0][0]:
            raise UnknownFailure(f"{count} messages {violation}")
    return Tolerances(0)


def _dispatch_with_clock_skew(env: StackEnvironment, shift: str) -> None:
    """Run `airflow dags test dispatch_email` in a process whose clock is off."""
    variables = env.stack_copy.stack.subprocess_environment(MANUAL_RUN_DATABASE)
    shifted = {
        "LD_PRELOAD": str(env.tools.faketime_library()), "FAKETIME": shift, "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "PYTHONPATH": f"{env.stack_copy.project / 'plugins'}:{env.stack_copy.project}",
    }  # fmt: skip
    env.report(f"running a dispatcher whose clock is {shift} off")
    done = subprocess.run(
        [sys.executable, "-P", "-m", "airflow", "dags", "test", "dispatch_email"],
        check=False, cwd=env.stack_copy.project, env={**variables, **shifted}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    if done.returncode:
        raise UnknownFailure(f"the dispatcher with a clock {shift} off failed: {done.stderr[-500:]}")


SCENARIOS = (
    Scenario("no-log-space", "a worker has no disk space for logs", _no_log_space),
    Scenario("clock-off", "one worker's clock is an hour ahead, another's an hour behind", _clock_skew),
)
