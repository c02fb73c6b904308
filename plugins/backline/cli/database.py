"""Commands for an app's own database: migrate, statements."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from backline.cli.console import AsJson, app, out, print_json, print_result
from backline.db import check
from backline.db.migrate import migrate
from backline.errors import Misconfigured

DatabaseOption = Annotated[
    str,
    typer.Option(
        "--database", envvar="BACKLINE_DATABASE_URL", show_envvar=True,
        help="Your database, postgresql://role:password@host/name; in the environment it is hidden from other users.",
    ),
]  # fmt: skip


@app.command("migrate")
def migrate_command(database: DatabaseOption = "", as_json: AsJson = False) -> None:
    """Migrate the schema backline of your own database; `setup` migrates the embedded stack's."""
    applied = migrate(_require_database(database))
    text = f"Applied {', '.join(applied)}." if applied else "Up to date."
    print_result({"applied": applied}, text, as_json)


@app.command("statements")
def statements_command(
    domains: Annotated[
        list[str] | None, typer.Argument(metavar="[DOMAIN]...", help="Such as identity; all if not given.")
    ] = None,
    database: DatabaseOption = "",
    as_json: AsJson = False,
) -> None:
    """Check that every named statement fits your database, without running it; the exit code is 1 if one does not."""
    found = check.check_statements(_require_database(database), domains or ())
    problems = [one for one in found if one.problem]
    if as_json:
        print_json({"fits": not problems, "statements": found})
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
