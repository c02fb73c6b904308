"""PostgreSQL and Airflow's components: each is SIGKILLed under load."""

from __future__ import annotations

from functools import partial

from chaos.scenario import Scenario, Tolerances
from chaos.stack_environment import StackEnvironment

DISPATCHER_COUNT = 2
"""The lane's maximum: a dead database or scheduler ends them."""


def _postgres_killed(env: StackEnvironment) -> Tolerances:
    return _service_killed(env, "postgres", DISPATCHER_COUNT)


def _service_killed(env: StackEnvironment, service: str, dispatchers: int) -> Tolerances:
    """Kill the service under load; `dispatchers` end with it."""
    kills = env.full_or_short(3, 1)
    with env.background_load():
        for _ in range(kills):
            env.wait_received(env.received_count() + env.full_or_short(300, 100))
            env.kill_service(service)
        env.wait_received(env.received_count() + env.full_or_short(300, 100))
    env.verify_end_to_end()
    return Tolerances(kills * dispatchers * env.max_unconfirmed)


SCENARIOS = (
    Scenario("postgres-killed", "PostgreSQL's main process is SIGKILLed under load", _postgres_killed),
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
