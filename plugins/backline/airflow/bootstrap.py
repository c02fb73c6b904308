"""Prepares the databases of an installation without the embedded stack: `python -m backline.airflow.bootstrap`.

Runs the migrations of the app's and of Airflow's database, and creates the pools and Airflow's admin user. Safe to
repeat, so it runs at each start.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping

from backline.airflow.defaults import ensure_pools
from backline.db.migrate import migrate
from backline.errors import BacklineError, Misconfigured, UnknownFailure
from backline.settings import settings

REQUIRED_VARIABLES = ("BACKLINE_DATABASE_URL", "BACKLINE_USER", "BACKLINE_PASSWORD")


def bootstrap(environ: Mapping[str, str]) -> None:
    """Run all steps; each can be repeated after a failure."""
    if missing := [name for name in REQUIRED_VARIABLES if not environ.get(name)]:
        raise Misconfigured(f"{', '.join(missing)}: must be set")
    settings().check_job_sections()
    for name in migrate(environ["BACKLINE_DATABASE_URL"]):
        _print_step(f"applied migration {name}")
    # Includes the tables of Airflow's auth manager.
    if subprocess.run([sys.executable, "-P", "-m", "airflow", "db", "migrate"], check=False).returncode:
        raise UnknownFailure("`airflow db migrate` failed; see its message above")
    _print_step(f"pools: {', '.join(ensure_pools(settings())) or 'unchanged'}")
    _print_step(
        f"user {environ['BACKLINE_USER']}: {ensure_admin(environ['BACKLINE_USER'], environ['BACKLINE_PASSWORD'])}"
    )


def ensure_admin(name: str, password: str) -> str:
    """Create the user with the role Admin in FAB's tables, or set its password; returns what was done."""
    from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder
    from werkzeug.security import check_password_hash

    with get_application_builder() as builder:
        users = builder.sm
        found = users.find_user(username=name)
        if found is None:
            created = users.add_user(name, "Backline", name, f"{name}@localhost", users.find_role("Admin"), password)
            if not created:
                raise UnknownFailure(f"Airflow's user {name} could not be created; see its message above")
            return "created"
        if check_password_hash(found.password, password):
            return "unchanged"
        users.reset_password(found.id, password)
        return "password changed"


def _print_step(text: str) -> None:
    print(f"backline: {text}", flush=True)  # noqa: T201


if __name__ == "__main__":
    try:
        bootstrap(os.environ)
    except BacklineError as exc:
        sys.exit(f"backline: {' '.join(str(exc).split())}")
