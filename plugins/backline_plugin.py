"""Registers Backline with Airflow; all other code is in the package `backline`."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from airflow.plugins_manager import AirflowPlugin


class BacklinePlugin(AirflowPlugin):
    """Backline's entry in Airflow's list of plugins."""

    name = "backline"

    @cached_property
    def fastapi_apps(self) -> list[Any]:  # type: ignore[override]  # a list in the base class
        """The HTTP API. Every process loads this plugin, but only the api-server reads this property and imports the API."""
        from backline.web.app import create_app
        from backline.web.urls import PREFIX

        return [{"app": create_app(), "url_prefix": PREFIX, "name": "Backline"}]

    @cached_property
    def fastapi_root_middlewares(self) -> list[Any]:  # type: ignore[override]
        """Guards Airflow's own routes; read by the api-server only."""
        from backline.airflow.request_guard import RequestGuard

        return [{"middleware": RequestGuard, "name": "Backline: bodies, and conf of send_* runs"}]
