"""What a pattern for SQL matches, the validator in Python accepts."""

from __future__ import annotations

import re

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as profile
from hypothesis import strategies as st
from pydantic import TypeAdapter

from backline.channels.registry import definition
from backline.messages import fields
from backline.messages.fields import SQL_PATTERN
from backline.settings import CHANNELS

INVALID_PUNYCODE = re.compile(r"(?i)xn--")
"""SQL cannot tell whether such a domain means something."""
TYPES = {
    name: adapter
    for name, value in vars(fields).items()
    if hasattr(value, "__metadata__") and SQL_PATTERN in (adapter := TypeAdapter(value)).json_schema()
}


def texts(pattern: str) -> st.SearchStrategy[str]:
    return st.from_regex(re.compile(f"(?:{pattern})\\Z"), fullmatch=True)


@pytest.mark.parametrize("name", TYPES)
@given(data=st.data())
@profile(suppress_health_check=list(HealthCheck))
def test_a_field_accepts_what_its_pattern_matches(name: str, data: st.DataObject) -> None:
    schema = TYPES[name].json_schema()
    text = data.draw(texts(schema[SQL_PATTERN]))
    if (
        "\0" not in text
        and schema.get("minLength", 0) <= len(text) <= schema.get("maxLength", len(text))
        and not INVALID_PUNYCODE.search(text)
    ):
        TYPES[name].validate_python(text)


@pytest.mark.parametrize("channel", CHANNELS)
@pytest.mark.parametrize("short", [False, True], ids=["full", "short"])
@given(data=st.data())
@profile(suppress_health_check=list(HealthCheck))
def test_a_channel_accepts_what_its_patterns_match(channel: str, *, short: bool, data: st.DataObject) -> None:
    found = definition(channel)
    text = data.draw(texts(found.short_recipient_pattern if short else found.recipient_pattern()))
    if (
        "\0" not in text
        and len(text) <= (64 if short else found.recipient_max_length)
        and not INVALID_PUNYCODE.search(text)
    ):
        found.parse_recipient(text, "to")
        assert re.fullmatch(found.recipient_pattern(), text)
