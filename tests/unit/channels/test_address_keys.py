from __future__ import annotations

import pytest

from backline.channels.registry import definition
from backline.errors import InvalidInput

SAME = [
    ("email", "Ann@Example.com", "ann@example.com"),
    ("email", "Ann Lee <Ann@Example.com>", "ann@example.com"),
    ("email", '"Lee, Ann" <ann+news@example.com> ', "ann+news@example.com"),
    ("email", "ann@münchen.example", "ann@xn--mnchen-3ya.example"),
    ("sms", "+49 (170) 123-4567", "+491701234567"),
    ("push", " fCm:Token ", "fCm:Token"),
]


@pytest.mark.parametrize(("channel", "written", "key"), SAME)
def test_an_address_has_one_key_however_it_is_written(channel: str, written: str, key: str) -> None:
    assert definition(channel).address_key(written) == key
    assert definition(channel).parse_address_key(written, "address") == key


@pytest.mark.parametrize(
    ("channel", "address", "field"),
    [
        ("pigeon", "ann@example.com", "channel"),
        ("email", "ann", "address"),
        ("email", "", "address"),
        ("sms", "0170 1234567", "address"),
        ("sms", "ann@example.com", "address"),
        ("push", " ", "address"),
        ("push", "a\nb", "address"),
    ],
)
def test_an_invalid_address_is_named(channel: str, address: str, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        definition(channel).parse_address_key(address, "address")
    assert caught.value.field == field
