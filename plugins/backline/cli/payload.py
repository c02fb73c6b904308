"""A payload from the command line: `--payload`, `--set`, and secrets that are never part of the command itself."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from backline.errors import InvalidInput
from backline.messages.base import MessageType
from backline.messages.rules import spec
from backline.messages.secrets import REFERENCE_KEY, is_encrypted

TypeName = Annotated[str, typer.Argument(metavar="TYPE", help="A message type; docs/messages.md lists them.")]
Payload = Annotated[str | None, typer.Option("--payload", metavar="JSON|@FILE", help="The payload, or a file with it.")]
Fields = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="FIELD=VALUE", help="One field of the payload; repeatable. For a secret: FIELD=@FILE."
    ),
]


def parse_payload(kind: type[MessageType], payload: str | None, fields: Sequence[str]) -> dict[str, Any]:
    """The payload of the two options; InvalidInput names a field that is wrong, or a plaintext secret."""
    found = _parse_json(kind, payload) if payload is not None else {}
    return found | {name: value for field in fields for name, value in [_parse_field(kind, field)]}


def prompt_secrets(kind: type[MessageType], payload: dict[str, Any]) -> dict[str, Any]:
    """The payload with its missing required secrets, which are prompted for on the terminal."""
    rules = spec(kind)["fields"]
    for name in sorted(kind.secret_fields - set(payload)):
        if not rules[name]["required"]:
            continue
        if not sys.stdin.isatty():
            raise InvalidInput(name, f"is secret and required; give --set {name}=@FILE, or run this on a terminal")
        payload = {**payload, name: typer.prompt(f"{name} (secret, not shown)", hide_input=True, err=True)}
    return payload


def _parse_json(kind: type[MessageType], text: str) -> dict[str, Any]:
    from_file = text.startswith("@")
    try:
        loaded = json.loads(_read_file("--payload", text[1:]) if from_file else text)
    except ValueError as exc:
        raise InvalidInput("--payload", f"is not JSON: {exc}") from None
    if not isinstance(loaded, dict):
        raise InvalidInput("--payload", 'must be a JSON object such as {"name": "Ann"}')
    if not from_file:
        for name in sorted(kind.secret_fields & set(loaded)):
            _reject_plaintext(name, loaded[name])
    return loaded


def _parse_field(kind: type[MessageType], text: str) -> tuple[str, Any]:
    name, separator, value = text.partition("=")
    rules: Mapping[str, Any] = spec(kind)["fields"]
    if not separator or name not in rules:
        raise InvalidInput(
            "--set", f"{name!r} must be FIELD=VALUE with a field of {kind.type_name}: {', '.join(rules)}"
        )
    if name in kind.secret_fields:
        return name, _parse_secret(name, value)
    kinds = set(rules[name]["type"]) - {"null"}
    if kinds == {"string"}:
        return name, value
    try:
        return name, json.loads(value)
    except ValueError:
        if "string" in kinds:
            return name, value
        raise InvalidInput(name, f"must be JSON of type {' or '.join(sorted(kinds))}") from None


def _parse_secret(name: str, value: str) -> Any:
    if value.startswith("@"):
        return _read_file(name, value[1:]).rstrip("\r\n")
    try:
        parsed = json.loads(value)
    except ValueError:
        parsed = value
    _reject_plaintext(name, parsed)
    return parsed


def _reject_plaintext(name: str, value: object) -> None:
    if value is not None and not is_encrypted(value) and not (isinstance(value, Mapping) and REFERENCE_KEY in value):
        raise InvalidInput(
            name,
            "is secret and would stay in the shell's history and the list of processes: leave it out to be prompted, "
            f"or give --set {name}=@FILE",
        )


def _read_file(name: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as exc:
        raise InvalidInput(name, f"cannot read {path!r}: {exc.strerror or exc}") from None
    except UnicodeDecodeError:
        raise InvalidInput(name, f"{path!r} is not text in UTF-8") from None
