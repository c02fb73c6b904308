"""The commands `webhooks`: endpoints, their secrets, tests and replays."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Annotated

import typer

from backline.channels.webhook.settings import WebhookSettings
from backline.cli import console
from backline.cli.console import AsJson, err, out
from backline.errors import InvalidInput
from backline.settings import config_file, load
from backline.settings.loader import ENVIRONMENT_PREFIX
from backline.webhooks import endpoints

group = console.add_group("webhooks", "Webhook endpoints: list, add, rotate, disable, test, replay.")

Id = Annotated[str, typer.Argument(metavar="ENDPOINT", help="The id, such as ep_1; see list.")]
Events = Annotated[
    list[str] | None,
    typer.Option("--event", metavar="TYPE", help="Such as order.paid or order.*; repeatable. All types if not given."),
]


@group.command("list")
def list_endpoints(as_json: AsJson = False) -> None:
    """List all endpoints, oldest first."""
    with console.database("webhooks") as connection:
        found = endpoints.list_endpoints(connection)
    columns = {
        "id": lambda one: one.id,
        "state": lambda one: one.state,
        "url": lambda one: one.url,
        "events": lambda one: ", ".join(one.event_types),
        "health": _health,
        "description": lambda one: one.description,
    }
    empty = "No endpoints yet. Add one: ./backline webhooks add https://shop.example/hooks --event 'order.*'"
    console.print_rows(found, columns, empty, as_json)


@group.command()
def show(endpoint: Id, as_json: AsJson = False) -> None:
    """Show one endpoint, with the public keys of its v1a secrets."""
    with console.database("webhooks") as connection:
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
    with console.transaction("webhooks") as connection:
        created = endpoints.create(
            connection, _webhook_settings(), console.encryptor(), console.actor(), url=url,
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
    with console.transaction("webhooks") as connection:
        changed = endpoints.update(
            connection, _webhook_settings(), console.actor(), endpoint, url=url, event_types=event, description=description,
        )  # fmt: skip
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
    with console.transaction("webhooks") as connection:
        created = endpoints.rotate_secret(
            connection, _webhook_settings(), console.encryptor(), console.actor(), endpoint,
            scheme=scheme, overlap_seconds=overlap,
        )  # fmt: skip
    _show_created(created, as_json)


@group.command()
def disable(
    endpoint: Id,
    reason: Annotated[str, typer.Option("--reason", help="Why, for the record; required.")],
    as_json: AsJson = False,
) -> None:
    """Stop sending to an endpoint; its waiting messages end."""
    with console.transaction("webhooks") as connection:
        ended = endpoints.disable(connection, console.actor(), endpoint, reason)
    text = f"{endpoint} is disabled; {ended} messages that waited for it ended"
    console.print_result({"id": endpoint, "suppressed_count": ended}, text, as_json)


@group.command()
def enable(endpoint: Id, as_json: AsJson = False) -> None:
    """Send to an endpoint again, from the next event on."""
    with console.transaction("webhooks") as connection:
        found = endpoints.enable(connection, console.actor(), endpoint)
    text = f"{endpoint} is active. To send the missed events: ./backline webhooks replay {endpoint} --since TIME"
    console.print_result(found, text, as_json)


@group.command()
def delete(
    endpoint: Id, yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False, as_json: AsJson = False
) -> None:
    """Delete an endpoint with its secrets; its waiting messages end."""
    if not yes:
        typer.confirm(f"Delete {endpoint} permanently?", abort=True, err=True)
    with console.transaction("webhooks") as connection:
        ended = endpoints.delete(connection, console.actor(), endpoint)
    text = f"{endpoint} is deleted; {ended} messages that waited for it ended"
    console.print_result({"id": endpoint, "suppressed_count": ended}, text, as_json)


@group.command("test")
def send_test(endpoint: Id, as_json: AsJson = False) -> None:
    """Send a test event to an endpoint."""
    with console.transaction("webhooks") as connection:
        message = endpoints.send_test(connection, console.actor(), endpoint)
    text = f"Sent as message {message}. Follow it: ./backline inspect {message}"
    console.print_result({"messages": [message]}, text, as_json)


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
    start = console.parse_time("--since", since)
    with console.transaction("webhooks") as connection:
        if start is None:
            ids = [endpoints.replay_one(connection, console.actor(), endpoint, message or 0)]
        else:
            ids = endpoints.replay_since(connection, console.actor(), endpoint, start, include_delivered=everything)
    more = "; there may be more, so run this again" if len(ids) == endpoints.BATCH_LIMIT else ""
    console.print_result({"messages": ids}, f"{len(ids)} events sent again to {endpoint}{more}", as_json)


def _webhook_settings() -> WebhookSettings:
    """The installation's settings; the environment of the embedded stack allows its own sandbox as a receiver."""
    if "BACKLINE_DATABASE_URL" not in os.environ:
        known = console.installation_variables()
        os.environ.update({name: value for name, value in known.items() if name.startswith(ENVIRONMENT_PREFIX)})
    return load(config_file()).section(WebhookSettings)


def _health(one: endpoints.Endpoint) -> str:
    if one.disabled_reason is not None:
        return console.shorten(one.disabled_reason)
    return f"failing since {console.format_local(one.failing_since)}" if one.failing_since else "healthy"


def _show_created(created: endpoints.EndpointWithSecret, as_json: bool) -> None:
    if as_json:
        console.print_json({**asdict(created.endpoint), "secret": created.secret})
        return
    _show(created.endpoint, as_json=False)
    if created.secret is None:
        err.print("The receiver verifies with the newest public key above.", markup=False)
        return
    err.print("The secret, which the receiver needs too; it is not shown again:", markup=False)
    out.print(created.secret, markup=False)


def _show(one: endpoints.Endpoint, as_json: bool) -> None:
    if as_json:
        console.print_json(one)
        return
    names = ("id", "url", "description", "state", "disabled_reason", "last_error")
    console.print_fields(
        (
            *((name, getattr(one, name)) for name in names),
            ("events", ", ".join(one.event_types)),
            ("health", _health(one)),
            *((f"signs by {secret.scheme}", _key_and_end(secret)) for secret in one.secrets),
        )
    )


def _key_and_end(secret: endpoints.Secret) -> str:
    return (secret.public_key or "a shared secret") + console.format_local(
        secret.expires_at, pattern=", until %Y-%m-%d %H:%M:%S"
    )
