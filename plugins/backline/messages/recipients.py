"""Recipients by channel: an email address, a phone number, a device or a person's devices, a webhook endpoint or all.

A type of one channel takes one address. A type of several takes an object with an address per channel, and sends nothing over
an omitted channel; a single address is for the first of its channels that accepts it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from backline.channels.registry import definition
from backline.errors import InvalidInput


def check(channel: str, recipient: object, field: str = "to") -> str:
    """One recipient in the channel's format; InvalidInput names the field."""
    if not isinstance(recipient, str) or not recipient.strip():
        raise InvalidInput(field, f"is required; give {definition(channel).recipient_help}")
    return definition(channel).parse_recipient(recipient.strip(), field)


def example(channels: tuple[str, ...]) -> Any:
    """An example of a recipient over these channels: an address, or an object with one per channel."""
    examples = {channel: definition(channel).recipient_example for channel in channels}
    return examples if len(channels) > 1 else examples[channels[0]]


def by_channel(type_name: str, channels: tuple[str, ...], to: object) -> dict[str, str]:
    """The valid recipients of a message by channel; InvalidInput for `to` or `to.<channel>`."""
    if len(channels) == 1:
        return {channels[0]: check(channels[0], to)}
    to = _parse_json_object(to) if isinstance(to, str) else to
    names = ", ".join(channels)
    if isinstance(to, str) and to.strip():
        return _first_accepting_channel(channels, to)
    if not isinstance(to, Mapping) or not to:
        objects = json.dumps(example(channels))
        raise InvalidInput("to", f"must be an address, or an object with an address per channel ({names}): {objects}")
    if unknown := sorted(str(name) for name in set(to) - set(channels)):
        raise InvalidInput(f"to.{unknown[0]}", f"{type_name} is not sent over it; its channels: {names}")
    return {channel: check(channel, to[channel], f"to.{channel}") for channel in channels if channel in to}


def serialize(channels: tuple[str, ...], recipients: Mapping[str, str]) -> str:
    """Recipients by channel in the format that `backline.enqueue` takes for a type of these channels."""
    return json.dumps(dict(recipients)) if len(channels) > 1 else next(iter(recipients.values()))


def channels_of(channels: tuple[str, ...], recipient: str) -> tuple[str, ...]:
    """The channels of a serialized recipient."""
    return tuple(json.loads(recipient)) if len(channels) > 1 else channels


def _first_accepting_channel(channels: tuple[str, ...], to: str) -> dict[str, str]:
    problems = []
    for channel in channels:
        try:
            return {channel: check(channel, to)}
        except InvalidInput as exc:
            problems.append(f"{channel}: {exc.problem}")
    raise InvalidInput("to", "; ".join(problems))


def _parse_json_object(text: str) -> object:
    """A JSON object in text, as in the one-line field of a form; anything else unchanged."""
    if not text.lstrip().startswith("{"):
        return text
    try:
        return json.loads(text)
    except ValueError:
        return text
