"""The `webhooks` commands: endpoints, their secrets, tests and replays."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any

import typer
from rich.table import Table

from backline.audit_trail import Actor
from backline.cli.app import app
from backline.cli.console import add_row, current_operator, err, installation_variables, out, shorten, show_table
from backline.db.connect import Session, session
from backline.encryption import KEYS_VARIABLE, Encryptor
from backline.errors import InvalidInput
from backline.messages.fields import parse_timestamp
from backline.settings import config_file, load
from backline.settings.environment import ENVIRONMENT_PREFIX
from backline.webhooks import endpoints, events
from backline.webhooks.settings import WebhookSettings

group = typer.Typer(
    name="webhooks", help="Webhook endpoints: add, look, rotate, disable, test, replay.", no_args_is_help=True,
    rich_markup_mode=None,
)  # fmt: skip
app.add_typer(group)

Id = Annotated[str, typer.Argument(metavar="ENDPOINT", help="As in ep_1; see list.")]
AsJson = Annotated[bool, typer.Option("--json", help="Machine-readable, on stdout.")]
Events = Annotated[
    list[str] | None,
    typer.Option("--event", metavar="TYPE", help="As in order.paid or order.*; may be repeated. All if left out."),
]


@group.command("list")
def list_endpoints(as_json: AsJson = False) -> None:
    """List all endpoints, oldest first."""
    with _connection() as connection:
        found = endpoints.list_endpoints(connection)
    if as_json:
        _print_json([asdict(one) for one in found])
        return
    if not found:
        out.print("No endpoints yet. Add one: ./backline webhooks add https://shop.example/hooks --event 'order.*'")
        return
    table = Table("id", "state", "url", "events", "health", "description", box=None)
    for one in found:
        add_row(table, one.id, one.state, one.url, ", ".join(one.event_types), _health(one), one.description)
    show_table(table)


@group.command()
def show(endpoint: Id, as_json: AsJson = False) -> None:
    """Show one endpoint, with the public keys of its v1a secrets."""
    with _connection() as connection:
        found = endpoints.get_endpoint(connection, endpoint)
    _show(found, as_json)


@group.command()
def add(
    url: Annotated[str, typer.Argument(help="https://, at a public address.")],
    event: Events = None,
    description: Annotated[str, typer.Option(help="One line for people.")] = "",
    scheme: Annotated[str, typer.Option(help="v1: a shared secret; v1a: a public key for the receiver.")] = "v1",
    as_json: AsJson = False,
) -> None:
    """Add an endpoint; its secret is shown once, now."""
    with _transaction() as connection:
        made = endpoints.create(
            connection, _webhook_settings(), _encryptor(), _actor(), url=url, event_types=event or endpoints.ALL_EVENT_TYPES,
            description=description, scheme=scheme,
        )  # fmt: skip
    _show_created(made, as_json)


@group.command()
def update(
    endpoint: Id,
    url: Annotated[str | None, typer.Option(help="Another URL; what waits goes there.")] = None,
    event: Events = None,
    description: Annotated[str | None, typer.Option(help="One line for people.")] = None,
    as_json: AsJson = False,
) -> None:
    """Change what is given; everything else stays."""
    with _transaction() as connection:
        changed = endpoints.update(
            connection, _webhook_settings(), _actor(), endpoint, url=url, event_types=event, description=description
        )
    _show(changed, as_json)


@group.command()
def rotate(
    endpoint: Id,
    scheme: Annotated[str | None, typer.Option(help="v1 or v1a; the present one if left out.")] = None,
    overlap: Annotated[
        float | None, typer.Option(metavar="SECONDS", help="How long the old one still signs: a day; 0: it has leaked.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Give an endpoint a new secret, shown once, now."""
    with _transaction() as connection:
        made = endpoints.rotate_secret(
            connection, _webhook_settings(), _encryptor(), _actor(), endpoint, scheme=scheme, overlap_seconds=overlap
        )
    _show_created(made, as_json)


@group.command()
def disable(
    endpoint: Id,
    reason: Annotated[str, typer.Option("--reason", help="Why, for those who find it disabled; required.")],
    as_json: AsJson = False,
) -> None:
    """Send nothing more to an endpoint; what waits for it ends."""
    with _transaction() as connection:
        ended = endpoints.disable(connection, _actor(), endpoint, reason)
    _print_result(
        {"id": endpoint, "suppressed_count": ended}, f"{endpoint} is disabled; {ended} messages that waited for it ended", as_json
    )


@group.command()
def enable(endpoint: Id, as_json: AsJson = False) -> None:
    """Send to an endpoint again, from the next event on."""
    with _transaction() as connection:
        found = endpoints.enable(connection, _actor(), endpoint)
    if as_json:
        _print_json(asdict(found))
        return
    out.print(
        f"{endpoint} is active. What it has missed: ./backline webhooks replay {endpoint} --since TIME", markup=False
    )


@group.command()
def delete(
    endpoint: Id,
    yes: Annotated[bool, typer.Option("--yes", help="Do it without asking.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete an endpoint with its secrets; what waits for it ends."""
    if not yes:
        typer.confirm(f"Delete {endpoint}, for good?", abort=True, err=True)
    with _transaction() as connection:
        ended = endpoints.delete(connection, _actor(), endpoint)
    _print_result(
        {"id": endpoint, "suppressed_count": ended}, f"{endpoint} is deleted; {ended} messages that waited for it ended", as_json
    )


@group.command("test")
def send_test(endpoint: Id, as_json: AsJson = False) -> None:
    """Send an endpoint a test event."""
    with _transaction() as connection:
        message = events.send_test(connection, _actor(), endpoint)
    _print_result({"messages": [message]}, f"Sent as message {message}. Look: ./backline inspect {message}", as_json)


@group.command()
def replay(
    endpoint: Id,
    message: Annotated[int | None, typer.Option("--message", min=1, help="The event of this message.")] = None,
    since: Annotated[str | None, typer.Option(metavar="TIME", help="All since then: 2030-01-31T12:00:00Z.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="With --since: also what it has taken.")] = False,
    as_json: AsJson = False,
) -> None:
    """Send events again: one, or what the endpoint has missed since a time."""
    if (message is None) == (since is None) or (everything and since is None):
        raise InvalidInput("--since", "give either --message ID, or --since TIME with or without --all")
    with _transaction() as connection:
        if message is not None:
            ids = [events.replay_one(connection, _actor(), endpoint, message)]
        else:
            ids = events.replay_since(
                connection, _actor(), endpoint, _parse_time(since or ""), include_delivered=everything
            )
    more = "; there may be more, so do it again" if len(ids) == events.BATCH_LIMIT else ""
    _print_result({"messages": ids}, f"{len(ids)} events sent again to {endpoint}{more}", as_json)


@contextmanager
def _connection() -> Iterator[Session]:
    with session(installation_variables()["BACKLINE_DATABASE_URL"], name="webhooks command") as connection:
        yield connection


@contextmanager
def _transaction() -> Iterator[Session]:
    """As `_connection`, in one transaction."""
    with _connection() as connection, connection.transaction():
        yield connection


def _webhook_settings() -> WebhookSettings:
    """The installation's settings: the embedded stack's environment allows its own sandbox."""
    if "BACKLINE_DATABASE_URL" not in os.environ:
        known = {name: value for name, value in installation_variables().items() if name.startswith(ENVIRONMENT_PREFIX)}
        os.environ.update(known)
    return load(config_file()).section(WebhookSettings)


def _actor() -> Actor:
    return Actor(current_operator())


def _encryptor() -> Encryptor:
    keys = os.environ.get(KEYS_VARIABLE) or installation_variables()[KEYS_VARIABLE]
    return Encryptor(key.strip() for key in keys.split(","))


def _parse_time(text: str) -> datetime:
    try:
        return parse_timestamp(text)
    except ValueError as exc:
        raise InvalidInput("--since", str(exc)) from None


def _health(one: endpoints.Endpoint) -> str:
    if one.disabled_reason is not None:
        return shorten(one.disabled_reason)
    return f"failing since {one.failing_since.astimezone():%Y-%m-%d %H:%M:%S}" if one.failing_since else "well"


def _show_created(made: endpoints.EndpointWithSecret, as_json: bool) -> None:
    if as_json:
        _print_json({**asdict(made.endpoint), "secret": made.secret})
        return
    _show(made.endpoint, as_json=False)
    if made.secret is None:
        err.print("The receiver checks by the newest public key above.", markup=False)
        return
    err.print("The secret, for the receiver too; it is not shown again:", markup=False)
    out.print(made.secret, markup=False)


def _show(one: endpoints.Endpoint, as_json: bool) -> None:
    if as_json:
        _print_json(asdict(one))
        return
    table = Table(box=None, show_header=False)
    for name in ("id", "url", "description", "state", "disabled_reason", "last_error"):
        if value := getattr(one, name):
            add_row(table, name.replace("_", " "), str(value))
    add_row(table, "events", ", ".join(one.event_types))
    add_row(table, "health", _health(one))
    for secret in one.secrets:
        until = f", until {secret.expires_at.astimezone():%Y-%m-%d %H:%M:%S}" if secret.expires_at else ""
        add_row(table, f"signs by {secret.scheme}", (secret.public_key or "a shared secret") + until)
    show_table(table)


def _print_result(result: dict[str, Any], text: str, as_json: bool) -> None:
    if as_json:
        _print_json(result)
    else:
        out.print(text, markup=False)


def _print_json(value: object) -> None:
    typer.echo(json.dumps(value, indent=2, default=lambda moment: moment.isoformat()))
