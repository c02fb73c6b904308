"""Registers Backline with Airflow; everything else is in the package `backline`."""

from __future__ import annotations

from airflow.plugins_manager import AirflowPlugin


class BacklinePlugin(AirflowPlugin):
    """Backline's entry in Airflow's list of plugins."""

    name = "backline"
