"""All scenarios, in the order in which they run; one module per kind."""

from __future__ import annotations

from chaos.scenario import Scenario
from chaos.scenarios import celery, components, dispatchers, machine, mail, producers, values

SCENARIOS: dict[str, Scenario] = {
    each.name: each
    for module in (dispatchers, components, mail, producers, values, machine, celery)
    for each in module.SCENARIOS
}
