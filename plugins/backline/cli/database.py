"""Commands for a database of your own: migrate, statements."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from backline.cli.app import app
from backline.cli.console import out
from backline.db import check
from backline.db.migrate import migrate
from backline.errors import Misconfigured

DatabaseOption = Annotated[
    str,
    typer.Option(
        "--database",
        envvar="BACKLINE_DATABASE_URL",
        show_envvar=True,
        help="Your database, postgresql://role:password@host/name; in the environment, other users do not see it.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable, on stdout.")]


@app.command("migrate")
def migrate_command(database: DatabaseOption = "", as_json: AsJson = False) -> None:
    """Bring the schema backline of your own database up to date; the stack's own is `setup`'s."""
    applied = migrate(_require_database(database))
    if as_json:
        typer.echo(json.dumps({"applied": applied}))
        return
    out.print(f"Applied {', '.join(applied)}." if applied else "Up to date.", markup=False)


@app.command("statements")
def statements_command(
    domains: Annotated[
        list[str] | None, typer.Argument(metavar="[DOMAIN]...", help="Such as identity; all if none is given.")
    ] = None,
    database: DatabaseOption = "",
    as_json: AsJson = False,
) -> None:
    """Plan every named statement on your database, run none; the exit code is 0 only if all fit it."""
    found = check.check_statements(_require_database(database), domains or ())
    problems = [one for one in found if one.problem]
    if as_json:
        typer.echo(json.dumps({"fits": not problems, "statements": [asdict(one) for one in found]}, indent=2))
    else:
        table = Table("statement", "from", "", box=None)
        for one in problems:
            table.add_row(f"{one.domain}.{one.name}", "your file" if one.is_custom else "include/sql", one.problem)
        if problems:
            out.print(table)
        own = sum(one.is_custom for one in found)
        out.print(
            f"{len(found) - len(problems)} of {len(found)} statements fit, {own} of them from your own files",
            markup=False,
        )
    raise typer.Exit(1 if problems else 0)


def _require_database(database: str) -> str:
    if not database:
        raise Misconfigured(
            "no database given; set BACKLINE_DATABASE_URL=postgresql://role:password@host/name (docs/adopting.md)"
        )
    return database
