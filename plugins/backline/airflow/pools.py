"""Airflow pools from the settings: `python -m backline.airflow.pools` makes them in Airflow's database."""

from __future__ import annotations

from backline.settings import Settings, settings


def lane_pool(lane: str) -> str:
    """The name of a lane's pool: pool names have no dots."""
    return lane.replace(".", "_")


def configured_pools(current: Settings) -> dict[str, int]:
    """Slots by pool: each lane's dispatchers and one more, so that the next can start before the last has handed over."""
    lanes = {lane_pool(name): lane.max_dispatchers + 1 for name, lane in current.lanes.items()}
    return {**lanes, **current.direct_pools, **current.job_pools}


def ensure_pools(current: Settings) -> list[str]:
    """Create the pools that are not there and set the slots of the others; returns the names that changed."""
    from airflow.models.pool import Pool

    before = {pool.pool: pool.slots for pool in Pool.get_pools()}
    changed = [name for name, slots in configured_pools(current).items() if before.get(name) != slots]
    for name in changed:
        Pool.create_or_update_pool(
            name, configured_pools(current)[name], "From include/config/backline.toml", include_deferred=False
        )
    return changed


if __name__ == "__main__":
    print("pools:", ", ".join(ensure_pools(settings())) or "unchanged")  # noqa: T201
