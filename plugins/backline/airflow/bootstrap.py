"""Makes the databases ready where the server is not the embedded one: `python -m backline.airflow.bootstrap`.

Migrations of the app's and of Airflow's database, pools, and Airflow's user for people and programs. Safe to repeat,
and to run at each start.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping

from backline.airflow.pools import ensure_pools
from backline.db.migrate import migrate
from backline.errors import BacklineError, Misconfigured, UnknownFailure
from backline.settings import settings

REQUIRED_VARIABLES = ("BACKLINE_DATABASE_URL", "BACKLINE_USER", "BACKLINE_PASSWORD")


def bootstrap(environ: Mapping[str, str]) -> None:
    """Do it all, in an order in which a failure leaves nothing half-done that matters."""
    if missing := [name for name in REQUIRED_VARIABLES if not environ.get(name)]:
        raise Misconfigured(f"{', '.join(missing)}: must be set")
    for name in migrate(environ["BACKLINE_DATABASE_URL"]):
        _print_step(f"applied migration {name}")
    # Of Airflow, and of its auth manager, which has tables of its own.
    if subprocess.run([sys.executable, "-P", "-m", "airflow", "db", "migrate"], check=False).returncode:
        raise UnknownFailure("`airflow db migrate` failed; see its message above")
    _print_step(f"pools: {', '.join(ensure_pools(settings())) or 'unchanged'}")
    _print_step(
        f"user {environ['BACKLINE_USER']}: {ensure_admin(environ['BACKLINE_USER'], environ['BACKLINE_PASSWORD'])}"
    )


def ensure_admin(name: str, password: str) -> str:
    """Make the user with the role Admin in FAB's tables, or give the one that is there this password."""
    from airflow.providers.fab.auth_manager.cli_commands.utils import get_application_builder
    from werkzeug.security import check_password_hash

    with get_application_builder() as builder:
        users = builder.sm
        found = users.find_user(username=name)
        if found is None:
            made = users.add_user(name, "Backline", name, f"{name}@localhost", users.find_role("Admin"), password)
            if not made:
                raise UnknownFailure(f"Airflow's user {name} could not be made; see its message above")
            return "made"
        if check_password_hash(found.password, password):
            return "unchanged"
        users.reset_password(found.id, password)
        return "has the new password"


def _print_step(text: str) -> None:
    print(f"backline: {text}", flush=True)  # noqa: T201


if __name__ == "__main__":
    try:
        bootstrap(os.environ)
    except BacklineError as exc:
        sys.exit(f"backline: {' '.join(str(exc).split())}")
