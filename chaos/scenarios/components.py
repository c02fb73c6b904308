"""PostgreSQL and Airflow's components, each SIGKILLed under load."""

from __future__ import annotations

from functools import partial

from chaos.scenario import Bounds, Scenario
from chaos.stack_arena import StackArena

DISPATCHERS = 2
"""That the lane has at most: what a dead database or scheduler takes with it."""


def _postgres(arena: StackArena) -> Bounds:
    return _killed(arena, "postgres", DISPATCHERS)


def _killed(arena: StackArena, service: str, dispatchers: int) -> Bounds:
    """Kill the service under load; what dies with it are so many dispatchers."""
    kills = arena.pick(3, 1)
    with arena.load():
        for _ in range(kills):
            arena.wait_arrived(arena.arrived() + arena.pick(300, 100))
            arena.kill(service)
        arena.wait_arrived(arena.arrived() + arena.pick(300, 100))
    arena.prove_alive()
    return Bounds(kills * dispatchers * arena.unconfirmed)


SCENARIOS = (
    Scenario("postgres-killed", "PostgreSQL's first process is SIGKILLed under load", _postgres),
    *(
        Scenario(
            f"{service}-killed",
            f"Airflow's {service} is SIGKILLed under load",
            partial(_killed, service=service, dispatchers=dispatchers),
        )
        # The scheduler's workers end with it.
        for service, dispatchers in (
            ("scheduler", DISPATCHERS),
            ("triggerer", 0),
            ("api-server", 0),
            ("dag-processor", 0),
        )
    ),
)
