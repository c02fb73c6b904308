"""Recipients by channel, as people and programs give them."""

from __future__ import annotations

import json

import pytest

from backline.channels.registry import definition
from backline.errors import InvalidInput
from backline.messages import registry
from backline.messages.recipients import by_channel, channels_of, check, serialize
from backline.settings import CHANNELS

BOTH = ("email", "sms")
ANN = {"email": "ann@example.com", "sms": "+4915112345678"}


@pytest.mark.parametrize("channel", CHANNELS)
def test_each_channels_example_is_one(channel: str) -> None:
    example = definition(channel).recipient_example
    assert check(channel, example) == example


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        (ANN, ANN),
        ({"sms": "+49 (0)151 12345678"}, {"sms": "+4915112345678"}),
        (json.dumps(ANN), ANN),
        ("Ann <ann@example.com>", {"email": "Ann <ann@example.com>"}),
        ("+49 151 12345678", {"sms": "+4915112345678"}),
    ],
)
def test_of_several_channels_each_has_one_or_one_is_given_alone(given: object, taken: dict[str, str]) -> None:
    assert by_channel("alert", BOTH, given) == taken


@pytest.mark.parametrize(
    ("given", "field", "word"),
    [
        (None, "to", "an object with an address per channel"),
        ({}, "to", "an object with an address per channel"),
        ([], "to", "an object with an address per channel"),
        ("", "to", "an object with an address per channel"),
        ({"fax": "1"}, "to.fax", "its channels: email, sms"),
        ({"email": "ann"}, "to.email", "not an email address"),
        ({"sms": "0151"}, "to.sms", "country code"),
        ({"sms": None}, "to.sms", "is required"),
        ('{"sms": 5}', "to.sms", "is required"),
        ('{"sms": ', "to", "email: .*; sms: "),
        ("ann", "to", "email: .*; sms: "),
    ],
)
def test_an_invalid_recipient_is_named_by_its_channel(given: object, field: str, word: str) -> None:
    with pytest.raises(InvalidInput, match=word) as caught:
        by_channel("alert", BOTH, given)
    assert caught.value.field == field


@pytest.mark.parametrize("given", [None, "", " ", 5, ANN])
def test_of_one_channel_there_is_one(given: object) -> None:
    with pytest.raises(InvalidInput, match="give a phone number") as caught:
        by_channel("sms", ("sms",), given)
    assert caught.value.field == "to"


def test_a_serialized_recipient_names_its_channels() -> None:
    assert serialize(("sms",), {"sms": "+49151"}) == "+49151"
    assert channels_of(("sms",), "+49151") == ("sms",)
    assert json.loads(serialize(BOTH, {"sms": "+49151"})) == {"sms": "+49151"}
    assert channels_of(BOTH, serialize(BOTH, ANN)) == BOTH


@pytest.mark.parametrize("device", ["x", "user:", "user:a b", "two words", "tökenlong", "x" * 4097])
def test_an_invalid_device_is_named(device: str) -> None:
    with pytest.raises(InvalidInput, match="user:17"):
        registry.get("push").check_recipient(device)
