"""The trigger form of a `send_<type>` DAG, judged by Airflow itself."""

from __future__ import annotations

import json
from typing import Any, ClassVar, Literal

import pytest
from airflow.sdk.definitions.param import ParamsDict
from airflow.sdk.exceptions import ParamValidationError
from pydantic import Field

from backline.airflow.params import params_for
from backline.channels.registry import definition
from backline.messages import registry
from backline.messages.base import MessageType
from backline.messages.run_conf import split_conf
from backline.messages.secrets import check_no_plaintext_secrets

TYPES = registry.all_types()


class Choice(MessageType):
    """A type made up for these tests."""

    secret_fields: ClassVar[frozenset[str]] = frozenset({"code"})
    secret_references: ClassVar = {"code": ("mfa_code",)}

    level: Literal["low", "high"] = Field("low", title="Level")
    code: str = Field(max_length=6, title="Code", examples=["123456"])


Choice.declare("choice", {"email": "email.normal"})


def validated(kind: type[MessageType], conf: dict[str, Any]) -> dict[str, Any]:
    params = ParamsDict(params_for(kind))
    params.update(conf)
    return params.validate()


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.type_name)
def test_airflow_takes_the_example_and_so_does_the_model(kind: type[MessageType]) -> None:
    to = definition(kind.channels[0]).recipient_example
    conf = validated(kind, {"to": to, **kind.example})
    recipient, payload, _ = split_conf(kind, conf)
    assert recipient == (to if len(kind.channels) == 1 else json.dumps({kind.channels[0]: to}))
    assert {**payload, **kind.example} == payload
    check_no_plaintext_secrets(kind, payload)


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.type_name)
def test_the_form_begins_with_to_and_ends_with_the_options(kind: type[MessageType]) -> None:
    params = params_for(kind)
    names = list(params)
    assert names[0] == "to"
    assert names[-2:] == ["request_id", "expires_at"]
    assert set(names[1:-2]) == set(kind.model_fields)
    needed = [name for name in names if "null" not in params[name].schema["type"]]
    assert needed == names[: len(needed)]
    for param in params.values():
        assert param.schema["title"]
        assert param.description


@pytest.mark.parametrize(
    ("name", "conf", "field"),
    [
        ("welcome", {"name": "Ann"}, "to"),
        ("welcome", {"to": "ann@example.com"}, "name"),
        ("welcome", {"to": "ann@example.com", "name": 5}, "name"),
        ("welcome", {"to": "ann@example.com", "name": "x" * 201}, "name"),
        ("welcome", {"to": "ann@example.com", "name": "Ann", "expires_at": 5}, "expires_at"),
        ("email", {"to": "ann@example.com", "subject": "Hi", "cc": "bob@example.com"}, "cc"),
        ("email", {"to": "ann@example.com", "subject": "Hi", "attachments": ["a.pdf"]}, "attachments"),
        ("templated_email", {"to": "ann@example.com", "template": "notice", "context": "x"}, "context"),
    ],
)
def test_airflow_refuses_a_bad_conf_by_the_name_of_the_field(name: str, conf: dict[str, Any], field: str) -> None:
    with pytest.raises(ParamValidationError, match=f"param {field}:"):
        validated(registry.get(name), conf)


def test_fields_get_the_entry_that_fits_them() -> None:
    params = params_for(registry.get("email"))
    assert params["text"].schema["format"] == "multiline"
    assert "format" not in params["subject"].schema
    assert params["cc"].schema["items"] == {"type": "string"}
    assert params["attachments"].schema["items"] == {"type": "object"}
    assert params["headers"].schema["type"] == ["null", "object"]
    assert params["expires_at"].schema["format"] == "date-time"
    assert params_for(registry.get("urgent_email"))["template"].value == "system_alert"
    # In Airflow's form the examples of a list or an object would be the only choices.
    assert not [
        name for name, param in params.items() if "examples" in param.schema and "string" not in param.schema["type"]
    ]


def test_an_enum_is_a_choice_and_a_secret_is_never_asked_for_as_plaintext() -> None:
    params = params_for(Choice)
    assert params["level"].schema["enum"] == ["low", "high", None]
    assert params["level"].value == "low"
    assert params["code"].schema["type"] == ["string", "object"]
    assert "maxLength" not in params["code"].schema
    assert "123456" not in str(params["code"].serialize())
    assert '{"$ref": "mfa_code", "id": ...}' in str(params["code"].description)
    for given in ({"$ref": "mfa_code", "id": 5}, "gAAAAAB-encrypted"):
        assert validated(Choice, {"to": "ann@example.com", "code": given})["code"] == given
    with pytest.raises(ParamValidationError, match="param code:"):
        validated(Choice, {"to": "ann@example.com", "code": "123456"})


def test_a_secret_that_takes_no_reference_is_text_only() -> None:
    class EncryptedChoice(Choice):
        secret_references: ClassVar = {}

    EncryptedChoice.declare("encrypted", Choice.lanes)

    assert params_for(EncryptedChoice)["code"].schema["type"] == "string"


def test_days_and_times_get_a_calendar() -> None:
    params = params_for(registry.get("order_confirmation"))
    assert params["placed_at"].schema["format"] == "date-time"
    assert params["estimated_delivery"].schema["format"] == "date"


def test_each_channel_may_have_a_recipient_of_its_own() -> None:
    kind = registry.get("order_shipped")
    both = {"email": "ann@example.com", "sms": "+49 1511 2345678"}
    wanted = json.dumps({**both, "sms": "+4915112345678"})
    for given in (both, json.dumps(both)):  # as a program gives it, and as it is typed into the form's one line
        assert split_conf(kind, validated(kind, {"to": given, **kind.example}))[0] == wanted
    assert "+4915112345678" in str(params_for(kind)["to"].description)
