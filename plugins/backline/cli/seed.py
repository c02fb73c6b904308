"""The `seed` command."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich.table import Table

from backline.cli.console import app, out, print_progress, stack
from backline.encryption import Encryptor
from backline.reference_app import SeedResult, seed
from backline.reference_app.seeding import DEFAULT_SEED, MAX_SCALE, SEED_STEPS


@app.command("seed")
def seed_command(
    scale: Annotated[int, typer.Option(help=f"1 is about 10,000 rows, 100 about a million; at most {MAX_SCALE}.")] = 1,
    number: Annotated[int, typer.Option("--seed", help="Same seed, scale and day (UTC): same rows.")] = DEFAULT_SEED,
    replace: Annotated[bool, typer.Option("--replace", help="Empty the reference app's tables first.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable, on stdout.")] = False,
) -> None:
    """Fill the reference app (schema app of the stack's own database) with made data."""
    current = stack()
    current.setup()
    made = seed(
        current.cluster.dsn("backline"),
        scale,
        number,
        replace=replace,
        encryptor=Encryptor(current.secrets.backline_fernet_keys.split(",")),
        report=print_progress,
    )
    if as_json:
        answer = {
            "scale": scale,
            "seed": number,
            "tables": dict(made.rows),
            "rows": made.total,
            "steps": {name.removeprefix("seed_"): round(seconds, 3) for name, seconds in made.steps.items()},
            "seconds": round(made.seconds, 3),
        }
        typer.echo(json.dumps(answer, indent=2))
        return
    out.print(_table(made))


def _table(made: SeedResult) -> Table:
    """Rows by table; the seconds of tables that one statement fills stand at the first."""
    table = Table("table", "rows", "seconds", box=None, show_footer=True)
    for column, total in zip(table.columns, ("all", f"{made.total:,}", f"{made.seconds:.1f}"), strict=True):
        column.footer = total
        column.justify = "left" if total == "all" else "right"
    for step, names in SEED_STEPS.items():
        for name in names:
            table.add_row(name, f"{made.rows[name]:,}", f"{made.steps[step]:.1f}" if name == names[0] else "")
    return table
