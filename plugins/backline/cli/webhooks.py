"""The commands `webhooks`: endpoints, their secrets, tests and replays."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Annotated

import typer
from rich.table import Table

from backline.audit_trail import Actor
from backline.cli.console import (
    AsJson,
    add_group,
    add_row,
    current_operator,
    database,
    encryptor,
    err,
    format_local,
    installation_variables,
    out,
    parse_time,
    print_json,
    print_result,
    shorten,
    show_table,
)
from backline.db.connect import Session
from backline.errors import InvalidInput
from backline.settings import config_file, load
from backline.settings.environment import ENVIRONMENT_PREFIX
from backline.webhooks import endpoints, events
from backline.webhooks.settings import WebhookSettings

group = add_group("webhooks", "Webhook endpoints: list, add, rotate, disable, test, replay.")

Id = Annotated[str, typer.Argument(metavar="ENDPOINT", help="The id, such as ep_1; see list.")]
Events = Annotated[
    list[str] | None,
    typer.Option("--event", metavar="TYPE", help="Such as order.paid or order.*; repeatable. All types if not given."),
]


@group.command("list")
def list_endpoints(as_json: AsJson = False) -> None:
    """List all endpoints, oldest first."""
    with database("webhooks command") as connection:
        found = endpoints.list_endpoints(connection)
    if as_json:
        print_json([asdict(one) for one in found])
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
    with database("webhooks command") as connection:
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
    """Add an endpoint and show its secret, which is not shown again."""
    with _transaction() as connection:
        created = endpoints.create(
            connection, _webhook_settings(), encryptor(), _actor(), url=url,
            event_types=event or endpoints.ALL_EVENT_TYPES, description=description, scheme=scheme,
        )  # fmt: skip
    _show_created(created, as_json)


@group.command()
def update(
    endpoint: Id,
    url: Annotated[str | None, typer.Option(help="Another URL; waiting messages go there.")] = None,
    event: Events = None,
    description: Annotated[str | None, typer.Option(help="One line for people.")] = None,
    as_json: AsJson = False,
) -> None:
    """Change the given options; all others stay."""
    with _transaction() as connection:
        changed = endpoints.update(
            connection, _webhook_settings(), _actor(), endpoint, url=url, event_types=event, description=description
        )
    _show(changed, as_json)


@group.command()
def rotate(
    endpoint: Id,
    scheme: Annotated[str | None, typer.Option(help="v1 or v1a; the present one if not given.")] = None,
    overlap: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="How long the old secret still signs: a day; 0 if it has leaked."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Give an endpoint a new secret and show it; it is not shown again."""
    with _transaction() as connection:
        created = endpoints.rotate_secret(
            connection, _webhook_settings(), encryptor(), _actor(), endpoint, scheme=scheme, overlap_seconds=overlap
        )
    _show_created(created, as_json)


@group.command()
def disable(
    endpoint: Id,
    reason: Annotated[str, typer.Option("--reason", help="Why, for the record; required.")],
    as_json: AsJson = False,
) -> None:
    """Stop sending to an endpoint; its waiting messages end."""
    with _transaction() as connection:
        ended = endpoints.disable(connection, _actor(), endpoint, reason)
    text = f"{endpoint} is disabled; {ended} messages that waited for it ended"
    print_result({"id": endpoint, "suppressed_count": ended}, text, as_json)


@group.command()
def enable(endpoint: Id, as_json: AsJson = False) -> None:
    """Send to an endpoint again, from the next event on."""
    with _transaction() as connection:
        found = endpoints.enable(connection, _actor(), endpoint)
    text = f"{endpoint} is active. To send the missed events: ./backline webhooks replay {endpoint} --since TIME"
    print_result(asdict(found), text, as_json)


@group.command()
def delete(
    endpoint: Id,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete an endpoint with its secrets; its waiting messages end."""
    if not yes:
        typer.confirm(f"Delete {endpoint} permanently?", abort=True, err=True)
    with _transaction() as connection:
        ended = endpoints.delete(connection, _actor(), endpoint)
    text = f"{endpoint} is deleted; {ended} messages that waited for it ended"
    print_result({"id": endpoint, "suppressed_count": ended}, text, as_json)


@group.command("test")
def send_test(endpoint: Id, as_json: AsJson = False) -> None:
    """Send a test event to an endpoint."""
    with _transaction() as connection:
        message = events.send_test(connection, _actor(), endpoint)
    text = f"Sent as message {message}. Follow it: ./backline inspect {message}"
    print_result({"messages": [message]}, text, as_json)


@group.command()
def replay(
    endpoint: Id,
    message: Annotated[int | None, typer.Option("--message", min=1, help="The event of this message.")] = None,
    since: Annotated[str | None, typer.Option(metavar="TIME", help="All since then: 2030-01-31T12:00:00Z.")] = None,
    everything: Annotated[bool, typer.Option("--all", help="With --since: also the events it has received.")] = False,
    as_json: AsJson = False,
) -> None:
    """Send events again: one, or those that the endpoint has missed since a time."""
    if (message is None) == (since is None) or (everything and since is None):
        raise InvalidInput("--since", "give either --message ID, or --since TIME with or without --all")
    start = parse_time("--since", since)
    with _transaction() as connection:
        if start is None:
            ids = [events.replay_one(connection, _actor(), endpoint, message or 0)]
        else:
            ids = events.replay_since(connection, _actor(), endpoint, start, include_delivered=everything)
    more = "; there may be more, so run this again" if len(ids) == events.BATCH_LIMIT else ""
    print_result({"messages": ids}, f"{len(ids)} events sent again to {endpoint}{more}", as_json)


@contextmanager
def _transaction() -> Iterator[Session]:
    with database("webhooks command") as connection, connection.transaction():
        yield connection


def _webhook_settings() -> WebhookSettings:
    """The installation's settings; the environment of the embedded stack allows its own sandbox as a receiver."""
    if "BACKLINE_DATABASE_URL" not in os.environ:
        known = {name: value for name, value in installation_variables().items() if name.startswith(ENVIRONMENT_PREFIX)}
        os.environ.update(known)
    return load(config_file()).section(WebhookSettings)


def _actor() -> Actor:
    return Actor(current_operator())


def _health(one: endpoints.Endpoint) -> str:
    if one.disabled_reason is not None:
        return shorten(one.disabled_reason)
    return f"failing since {format_local(one.failing_since)}" if one.failing_since else "healthy"


def _show_created(created: endpoints.EndpointWithSecret, as_json: bool) -> None:
    if as_json:
        print_json({**asdict(created.endpoint), "secret": created.secret})
        return
    _show(created.endpoint, as_json=False)
    if created.secret is None:
        err.print("The receiver verifies with the newest public key above.", markup=False)
        return
    err.print("The secret, which the receiver needs too; it is not shown again:", markup=False)
    out.print(created.secret, markup=False)


def _show(one: endpoints.Endpoint, as_json: bool) -> None:
    if as_json:
        print_json(asdict(one))
        return
    table = Table(box=None, show_header=False)
    for name in ("id", "url", "description", "state", "disabled_reason", "last_error"):
        if value := getattr(one, name):
            add_row(table, name.replace("_", " "), str(value))
    add_row(table, "events", ", ".join(one.event_types))
    add_row(table, "health", _health(one))
    for secret in one.secrets:
        until = f", until {format_local(secret.expires_at)}" if secret.expires_at else ""
        add_row(table, f"signs by {secret.scheme}", (secret.public_key or "a shared secret") + until)
    show_table(table)
