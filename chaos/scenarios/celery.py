"""CeleryExecutor with Redis and two workers: a worker that is killed, a broker that is restarted."""

from __future__ import annotations

from backline.errors import UnknownFailure
from backline.outbox.maintenance import stop_dispatchers
from chaos.celery_environment import CeleryEnvironment
from chaos.scenario import Scenario, Tolerances

URGENT_LANE = "email.urgent"
EXPECTED_QUEUES = {"dispatch_email": "default", "dispatch_email_urgent": "critical"}
"""DAG to the queue that its lane's setting names."""
LANE_WORKER = "worker-default"
STOP_TIMEOUT_SECONDS = 60.0


def _worker_killed(arena: CeleryEnvironment) -> Tolerances:
    kills = arena.full_or_short(3, 1)
    arena.slow_mail_server()
    with arena.background_load():
        for _ in range(kills):
            _drive_both_lanes(arena)
            arena.kill_worker(LANE_WORKER)
        _drive_both_lanes(arena)
    arena.mail.set_faults()
    arena.wait_finalized()
    _verify_queues(arena)
    # Two dispatchers of the lane may end with their worker.
    return Tolerances(kills * 2 * arena.max_unconfirmed)


def _broker_restarted(arena: CeleryEnvironment) -> Tolerances:
    with arena.background_load():
        for _ in range(arena.full_or_short(3, 1)):
            _drive_both_lanes(arena)
            arena.restart_broker()
            # The next ones have to go through the broker that came back.
            stop_dispatchers(arena.dsn, timeout=STOP_TIMEOUT_SECONDS)
        _drive_both_lanes(arena)
    arena.wait_finalized()
    _verify_queues(arena)
    return Tolerances(0)


def _drive_both_lanes(arena: CeleryEnvironment) -> None:
    before = arena.received_count()
    arena.producer.enqueue(arena.full_or_short(300, 100))
    arena.producer.enqueue(20, lane=URGENT_LANE)
    arena.wait_received(before + arena.full_or_short(200, 80))


def _verify_queues(arena: CeleryEnvironment) -> None:
    for dag_id, queue in EXPECTED_QUEUES.items():
        if (found := arena.task_queue(dag_id)) != queue:
            raise UnknownFailure(f"{dag_id} went through the queue {found!r}, not {queue!r}")


SCENARIOS = (
    Scenario(
        "celery-worker-killed", "a Celery worker is SIGKILLed with its dispatchers", _worker_killed, on_celery=True
    ),
    Scenario("celery-broker-killed", "Redis is SIGKILLed and started again", _broker_restarted, on_celery=True),
)
