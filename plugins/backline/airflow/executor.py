"""The executor of one machine: Airflow's LocalExecutor, its workers lighter."""

from __future__ import annotations

from airflow.executors.local_executor import LocalExecutor


class PreloadedLocalExecutor(LocalExecutor):
    """Loads what runs tasks before it forks the workers: they share it, where each would load it for its first task."""

    def start(self) -> None:
        """Load, then start the workers."""
        import airflow.sdk.execution_time.supervisor  # noqa: F401
        from airflow.sdk.api.client import Client

        # The first client of a process reads the certificates, and keeps them.
        Client(base_url="http://localhost", token="").close()
        super().start()
