"""CeleryExecutor with Redis and two workers: a worker that is killed, a broker that is restarted."""

from __future__ import annotations

from backline.errors import UnknownFailure
from backline.outbox.shutdown import stop_dispatchers
from chaos.celery_arena import CeleryArena
from chaos.scenario import Bounds, Scenario

URGENT = "email.urgent"
ROUTES = {"dispatch_email": "default", "dispatch_email_urgent": "critical"}
"""DAG to the queue that its lane's setting names."""
WORKER_OF_THE_LANE = "worker-default"
STOPPED_SECONDS = 60.0


def _worker_killed(arena: CeleryArena) -> Bounds:
    kills = arena.pick(3, 1)
    arena.slow_mail()
    with arena.load():
        for _ in range(kills):
            _both_lanes_at_work(arena)
            arena.kill_worker(WORKER_OF_THE_LANE)
        _both_lanes_at_work(arena)
    arena.mail.set_faults()
    arena.wait_ended()
    _require_routes(arena)
    # Two dispatchers of the lane may end with their worker.
    return Bounds(kills * 2 * arena.unconfirmed)


def _broker_restarted(arena: CeleryArena) -> Bounds:
    with arena.load():
        for _ in range(arena.pick(3, 1)):
            _both_lanes_at_work(arena)
            arena.restart_broker()
            # The next ones have to go through the broker that came back.
            stop_dispatchers(arena.dsn, timeout=STOPPED_SECONDS)
        _both_lanes_at_work(arena)
    arena.wait_ended()
    _require_routes(arena)
    return Bounds(0)


def _both_lanes_at_work(arena: CeleryArena) -> None:
    before = arena.arrived()
    arena.producer.put(arena.pick(300, 100))
    arena.producer.put(20, lane=URGENT)
    arena.wait_arrived(before + arena.pick(200, 80))


def _require_routes(arena: CeleryArena) -> None:
    for dag_id, queue in ROUTES.items():
        if (found := arena.queue_of(dag_id)) != queue:
            raise UnknownFailure(f"{dag_id} went through the queue {found!r}, not {queue!r}")


SCENARIOS = (
    Scenario(
        "celery-worker-killed", "a Celery worker is SIGKILLed with its dispatchers", _worker_killed, on_celery=True
    ),
    Scenario("celery-broker-killed", "Redis is SIGKILLed and started again", _broker_restarted, on_celery=True),
)
