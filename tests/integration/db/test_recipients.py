"""SQL's check of a recipient, which is never stricter than the models."""

from __future__ import annotations

import psycopg
import pytest

from backline.channels.registry import definition
from backline.errors import InvalidInput
from backline.messages.recipients import check

VALID = {
    "email": ["ann@example.com", "Ann <ann@example.com>"],
    "sms": ["+4915112345678", "+15005550006", "+29022222"],
    "push": ["user:17", "user:3f2b-77", "cXyz_1-2:APA91bH%x", "x" * 4096],
    "webhook": ["*", "ep_1"],
}
INVALID = {
    "email": ["", "ann", "a b@example.com", "x" * 401],
    "sms": [
        "",
        "4915112345678",
        "+0151",
        "+49 151 12345678",
        "+4915112345678901234",
        "+999123456789",
        "+123456789012345",
        "+4915112345678\n",
    ],
    "push": ["", "user:", "a b c d e f", "short", "tökenlong", "x" * 4097],
    "webhook": ["", "ep_", "ep_x", "all"],
    "fax": ["", "whatever it is"],
}
TYPED = {
    "email": ["ann@example.com", " Zoë <zoe@example.com> "],
    "sms": ["+49 (0)151 12345678", "+1 (500) 555-0006", "+290 22222", "+44 20 7946 0958"],
    "push": ["user:1", " device-of-ann "],
    "webhook": ["*", " ep_1 "],
}


def problem(connection: psycopg.Connection[tuple[str | None]], channel: str, recipient: str | None) -> str | None:
    row = connection.execute("SELECT backline.recipient_error(%s, %s)", (channel, recipient)).fetchone()
    assert row is not None
    return row[0]


def test_each_channel_has_its_recipient_format(database: str) -> None:
    with psycopg.connect(database) as connection:
        for channel, recipients in VALID.items():
            assert {one: problem(connection, channel, one) for one in recipients} == dict.fromkeys(recipients)
        for channel, recipients in INVALID.items():
            for one in [*recipients, None]:
                found = problem(connection, channel, one)
                assert found is not None, (channel, one)
                assert found.startswith("recipient: ")


def test_sql_accepts_what_the_models_accept(database: str) -> None:
    with psycopg.connect(database) as connection:
        for channel, recipients in TYPED.items():
            for one in [*recipients, definition(channel).recipient_example]:
                assert problem(connection, channel, check(channel, one)) is None, one


@pytest.mark.parametrize("channel", TYPED)
def test_the_models_refuse_what_sql_refuses(channel: str) -> None:
    for one in INVALID[channel]:
        try:
            kept = check(channel, one)
        except InvalidInput:
            continue
        assert kept != one  # it was only spelled otherwise
