"""The executor of the embedded stack: Airflow's LocalExecutor with workers that share their imports."""

from __future__ import annotations

from airflow.executors.local_executor import LocalExecutor


class PreloadedLocalExecutor(LocalExecutor):
    """Imports what runs tasks before it forks the workers, which then share that memory and start tasks faster."""

    def start(self) -> None:
        """Import, then start the workers."""
        import airflow.sdk.execution_time.supervisor  # noqa: F401
        from airflow.sdk.api.client import Client

        # The first client of a process reads the certificates and caches them.
        Client(base_url="http://localhost", token="").close()
        super().start()
