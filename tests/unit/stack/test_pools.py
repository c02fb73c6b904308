"""Airflow's pools are derived from the lanes."""

from __future__ import annotations

from backline.airflow.defaults import configured_pools
from backline.settings import config_file, load


def test_each_lane_has_its_own_pool_with_a_slot_for_the_handover() -> None:
    current = load(config_file())
    pools = configured_pools(current)
    for name, lane in current.lanes.items():
        assert pools[name.replace(".", "_")] == lane.max_dispatchers + 1
    assert current.direct_pools.items() <= pools.items()
    assert not [name for name in pools if "." in name]
