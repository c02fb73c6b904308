"""PostgreSQL and Airflow's components, each SIGKILLed under load."""

from __future__ import annotations

from functools import partial

from chaos.scenario import Scenario, Tolerances
from chaos.stack_environment import StackEnvironment

DISPATCHER_COUNT = 2
"""That the lane has at most: what a dead database or scheduler takes with it."""


def _postgres_killed(arena: StackEnvironment) -> Tolerances:
    return _service_killed(arena, "postgres", DISPATCHER_COUNT)


def _service_killed(arena: StackEnvironment, service: str, dispatchers: int) -> Tolerances:
    """Kill the service under load; what dies with it are so many dispatchers."""
    kills = arena.full_or_short(3, 1)
    with arena.background_load():
        for _ in range(kills):
            arena.wait_received(arena.received_count() + arena.full_or_short(300, 100))
            arena.kill_service(service)
        arena.wait_received(arena.received_count() + arena.full_or_short(300, 100))
    arena.verify_end_to_end()
    return Tolerances(kills * dispatchers * arena.max_unconfirmed)


SCENARIOS = (
    Scenario("postgres-killed", "PostgreSQL's first process is SIGKILLed under load", _postgres_killed),
    *(
        Scenario(
            f"{service}-killed",
            f"Airflow's {service} is SIGKILLed under load",
            partial(_service_killed, service=service, dispatchers=dispatchers),
        )
        # The scheduler's workers end with it.
        for service, dispatchers in (
            ("scheduler", DISPATCHER_COUNT),
            ("triggerer", 0),
            ("api-server", 0),
            ("dag-processor", 0),
        )
    ),
)
