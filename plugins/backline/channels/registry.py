"""The channels: each folder here that has a `channel.py` is one, described by `DEFINITION` of its package."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol

from backline.errors import InvalidInput
from backline.settings import CHANNELS

if TYPE_CHECKING:
    from backline.channels.base import Channel, Message
    from backline.channels.http import HttpGateway
    from backline.settings import Settings
    from smtp_pipeline import SmtpServer

ADDRESS_MAX_LENGTH = 400


class Connections(Protocol):
    """Where channels find their providers: Airflow's connections in a task. All raise NotConfigured or Misconfigured."""

    def smtp_server(self, connection_id: str) -> SmtpServer:
        """The SMTP server of a connection."""

    def http_gateway(self, connection_id: str) -> HttpGateway:
        """The HTTP gateway of a connection."""

    def app_dsn(self) -> str:
        """The connection string of the app's database."""


def sql_pattern(pattern: str) -> str:
    """The pattern for a text as a whole, in PostgreSQL."""
    return f"^(?:{pattern})$"


def _strip(address: str) -> str:
    return address.strip(" ")


def _check_line(address: str, field: str) -> str:
    key = _strip(address)
    if not key or not key.isprintable() or len(key) > ADDRESS_MAX_LENGTH:
        raise InvalidInput(field, f"must be one line of 1 to {ADDRESS_MAX_LENGTH} characters")
    return key


@dataclass(frozen=True, slots=True)
class ChannelDefinition:
    """All that the rest of Backline knows of a channel."""

    create: Callable[[Settings, Connections, Callable[[Message], Any]], Channel[Any]]
    """The channel for a task; the last argument renders a message's content."""
    recipient_example: str
    recipient_help: str
    """What a recipient is, after "give": for the form and for errors."""
    parse_recipient: Callable[[str, str], str]
    """A recipient in its stored form; InvalidInput names the field, the second argument."""
    recipient_pattern: Callable[[], str]
    """A regular expression, for Python and PostgreSQL, of the recipients that SQL takes as they are; `parse_recipient` accepts
    each of them."""
    short_recipient_pattern: str
    """A faster one, without counts, of which only recipients of up to 64 characters are valid."""
    recipient_problem: str
    """What is wrong with any other recipient, with an example."""
    recipient_max_length: int = ADDRESS_MAX_LENGTH
    """Characters of a recipient."""
    address_key: Callable[[str], str] = _strip
    """One key per recipient, however its address is written; never fails, and agrees with SQL's `backline.address_key`."""
    parse_address_key: Callable[[str, str], str] = _check_line
    """The key of an address from outside; InvalidInput names the field."""
    check_content: Callable[[Any], None] | None = None
    """Raises InvalidInput for content that the channel would refuse, if that is cheap to know; the HTTP API calls it."""
    retry_schedule: Callable[[Settings], tuple[Sequence[float], float]] | None = None
    """The delays after each attempt in seconds and their jitter, instead of [retry.*]."""


@cache
def definition(name: str) -> ChannelDefinition:
    """The channel of that name; InvalidInput for the field `channel` lists the known ones."""
    if name not in CHANNELS:
        raise InvalidInput("channel", f"{name[:40]!r} is not a channel; use one of: {', '.join(CHANNELS)}")
    found: ChannelDefinition = import_module(f"backline.channels.{name}").DEFINITION
    return found
