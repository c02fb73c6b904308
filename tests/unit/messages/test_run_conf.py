from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from backline.errors import InvalidInput
from backline.messages import registry
from backline.messages.run_conf import Options, split_conf

WELCOME = registry.get("welcome")


def test_a_conf_is_recipient_payload_and_options() -> None:
    conf = {
        "to": " ann@example.com ",
        "name": "Ann",
        "login_url": None,
        "request_id": "r-1",
        "expires_at": "2030-01-31T12:00:00+02:00",
        "priority": 9,
    }
    recipient, payload, options = split_conf(WELCOME, conf)
    assert recipient == "ann@example.com"
    assert payload == {"name": "Ann"}
    assert options == Options("r-1", datetime(2030, 1, 31, 12, tzinfo=timezone(timedelta(hours=2))), 9)


def test_options_may_be_omitted_and_z_is_utc() -> None:
    assert split_conf(WELCOME, {"to": "ann@example.com"})[1:] == ({}, Options())
    conf = {"to": "ann@example.com", "expires_at": "2030-01-31T12:00:00Z"}
    assert split_conf(WELCOME, conf)[2].expires_at == datetime(2030, 1, 31, 12, tzinfo=UTC)


def test_null_for_a_required_field_is_left_for_the_model_to_refuse() -> None:
    assert split_conf(WELCOME, {"to": "ann@example.com", "name": None})[1] == {"name": None}


@pytest.mark.parametrize(
    ("conf", "field", "text"),
    [
        ({}, "to", "is required; give an email address"),
        ({"to": None}, "to", "is required"),
        ({"to": " "}, "to", "is required"),
        ({"to": ["ann@example.com"]}, "to", "is required"),
        ({"to": "nobody"}, "to", "nobody"),
        ({"to": "ann@example.com, bob@example.com"}, "to", ""),
        ({"to": "ann@example.com\nBcc: eve@example.com"}, "to", "line breaks"),
        ({"nmae": "Ann"}, "nmae", "is not a field of welcome; known fields: to, "),
        ({"request_id": 5}, "request_id", "one line"),
        ({"request_id": "a\nb"}, "request_id", "one line"),
        ({"request_id": "x" * 201}, "request_id", "200"),
        ({"expires_at": "tomorrow"}, "expires_at", "2030-01-31T12:00:00Z"),
        ({"expires_at": 5}, "expires_at", "2030-01-31T12:00:00Z"),
        ({"expires_at": "2030-01-31T12:00:00"}, "expires_at", "time zone"),
        ({"expires_at": datetime(2030, 1, 1)}, "expires_at", "time zone"),  # noqa: DTZ001
        ({"priority": 0}, "priority", "from 1"),
        ({"priority": True}, "priority", "whole number"),
        ({"priority": "high"}, "priority", "whole number"),
    ],
)
def test_bad_confs_name_field_and_fix(conf: dict[str, Any], field: str, text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        split_conf(WELCOME, conf if "to" in conf or field == "to" else {"to": "ann@example.com", **conf})
    assert caught.value.field == field
    assert text in str(caught.value)
