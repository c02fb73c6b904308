"""CeleryExecutor with Redis and two workers: a killed worker, a restarted broker."""

from __future__ import annotations

from backline.errors import UnknownFailure
from backline.outbox.maintenance import stop_dispatchers
from chaos.celery_environment import CeleryEnvironment
from chaos.scenario import Scenario, Tolerances

URGENT_LANE = "email.urgent"
EXPECTED_QUEUES = {"dispatch_email": "default", "dispatch_email_urgent": "critical"}
"""DAG → the queue of its lane."""
LANE_WORKER = "worker-default"
STOP_TIMEOUT_SECONDS = 60.0


def _worker_killed(env: CeleryEnvironment) -> Tolerances:
    kills = env.full_or_short(3, 1)
    env.slow_mail_server()
    with env.background_load():
        for _ in range(kills):
            _drive_both_lanes(env)
            env.kill_worker(LANE_WORKER)
        _drive_both_lanes(env)
    env.mail.set_faults()
    env.wait_finalized()
    _verify_queues(env)
    # Two dispatchers of the lane may end with their worker.
    return Tolerances(kills * 2 * env.max_unconfirmed)


def _broker_restarted(env: CeleryEnvironment) -> Tolerances:
    with env.background_load():
        for _ in range(env.full_or_short(3, 1)):
            _drive_both_lanes(env)
            env.restart_broker()
            # The next messages must go through the restarted broker.
            stop_dispatchers(env.dsn, timeout=STOP_TIMEOUT_SECONDS)
        _drive_both_lanes(env)
    env.wait_finalized()
    _verify_queues(env)
    return Tolerances(0)


def _drive_both_lanes(env: CeleryEnvironment) -> None:
    before = env.received_count()
    env.producer.enqueue(env.full_or_short(300, 100))
    env.producer.enqueue(20, lane=URGENT_LANE)
    env.wait_received(before + env.full_or_short(200, 80))


def _verify_queues(env: CeleryEnvironment) -> None:
    for dag_id, queue in EXPECTED_QUEUES.items():
        if (found := env.task_queue(dag_id)) != queue:
            raise UnknownFailure(f"{dag_id} ran in the queue {found!r}, not {queue!r}")


SCENARIOS = (
    Scenario(
        "celery-worker-killed", "a Celery worker is SIGKILLed with its dispatchers", _worker_killed, on_celery=True
    ),
    Scenario("celery-broker-killed", "Redis is SIGKILLed and restarted", _broker_restarted, on_celery=True),
)
