"""What SQL accepts, HTTP accepts too, and it can be sent: random values for each parameter of each function that apps call.

A new function or parameter without a strategy here fails.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, note
from hypothesis import settings as profile
from hypothesis import strategies as st
from psycopg.rows import DictRow
from pydantic_core import from_json

from backline.channels.base import Channel, Message
from backline.channels.http import HttpGateway
from backline.channels.registry import definition
from backline.errors import InvalidInput
from backline.messages import registry, renderer
from backline.messages.base import MessageType
from backline.messages.fields import SQL_PATTERN
from backline.messages.rules import branches
from backline.preferences.unsubscribe import ALL_TOPICS
from backline.settings import CHANNELS, settings
from smtp_pipeline import SmtpServer
from tests.integration.channels.sandbox import service_account
from tests.integration.web.conftest import Api

DIFFERENCES = {
    r"(?s)^(?!.*every template has).*(?:template|variable|cannot be rendered)": "Only rendering shows whether a template exists and can use its variables.",
    r"is not an email address.*Invalid A-label": "Only Python decodes a domain that is written as xn--....",
    r"no such file|is not allowed; allowed|does not begin as|is not base64|is over|must be a PDF|regular file|through a link"
    r"|MiB together": "SQL sees neither files nor their types, which are settings.",
    r"body: needs \d+ segments; .*|body: has \d+ characters": "Only rendering shows how long a template's text is.",
}
"""Errors that a message accepted by SQL may end with, and why."""
HTTP_ONLY = {
    "idempotency_key": "A header has at most 200 visible ASCII characters.",
    "source": "Over HTTP it is the caller.",
    "key_scope": "Over HTTP it is the caller.",
    "reason": "Over HTTP it is always 'manual'.",
    "message_id": "Over HTTP nothing refers to a message.",
    "replay_of": "Over HTTP a replay is a route of its own.",
    "detail": "Kept as it is by SQL, which cuts it: bounces have texts of several lines.",
}
"""Parameters whose values HTTP does not take, and why."""

# --- values -----------------------------------------------------------------------------------------

LENGTHS = (59, 60, 61, 64, 65, 200, 201, 254, 256, 500, 501, 900, 1000, 1001, 1600, 2000, 2001, 5000, 5001)
EDGES = [
    "", " ", "\u00a0", "\x85", "\u2028x", "a\tb", "a\nb", "x\r\ny", "\x1b[0m", "\x7f", "é", "𝄞", "\ufffe", "*", "all", "null",
    "24:00", "2026-02-29", "2028-02-29", "0001-01-01", "0000-01-01", "9999-12-31", "2026-01-01T24:00:00Z", "2030-01-31T12:00:00Z",
    "2026-01-01T23:59:60Z", "2026-01-01T00:00:00+14:00", "2026-01-01 00:00:00.1234567Z", "2026-W01-1", "20260101", "infinity",
    "Europe/Berlin", "europe/berlin", "Mars/Base", "UTC", "EUR", "eur", "XXX", "ZZZ", "en", "EN", "pt-BR", "newsletter", "notice",
    "https://shop.example/a?b=c#d", "http://shop.example", "https://", "https://a b.example", "https://bücher.example/ä",
    "https://[::1", "https://user:pw@shop.example:99999/", "https://shop.example:/x", "javascript:alert(1)", "https://münchen/\u00ad",
    "ann@example.com", "Ann <ann@example.com>", "ann@bücher.example", "ann@localhost", "a..b@example.com", "ann@example",
    '"Ann" <ann@example.com>', "ann@-a.example", f"a@{'ä' * 30}.example", f"a@{'ä' * 40}.example", "a@" + "ä." * 60 + "example", "ann@a--b.example", "x@xn--bcher-kva.example", "ann@example.com\n", "ann+1@example.test",
    "+4915112345678", "+49 151 12345678", "+15005550006", "+1500555000", "+99912345", "+390612345678", "user:17", "user:", "ep_1", "ep_",
    "terms.pdf", "../terms.pdf", "samples/report.csv", "a/./b.pdf", "C:terms.pdf", "x" * 251 + ".pdf", "x" * 252 + ".pdf", "gAAAAx",
    "Resent-To", "Bcc", "X-A", "from", "google.x", "high", "manual", "complaint", "email", "sms", "Email", "email.bulk", "sms.urgent",
]  # fmt: skip
words = (
    st.sampled_from(EDGES)
    | st.builds(
        lambda char, length: char * length, st.sampled_from(["x", "é", "𝄞", "x ", "€"]), st.sampled_from(LENGTHS)
    )
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=12)
)
numbers = (
    st.integers(-3, 2_500_000)
    | st.sampled_from([10**12, 10**12 + 1, 10**199, 10**200, 10**400])
    | st.sampled_from(
        ["7280.00", "12345678901234567.89", "0.123456789012345678", "1e400", "1e-400", "0e-300", "-0.0", "1.5", "1e2"]
    ).map(Decimal)
)
scalars = words | numbers | st.none() | st.booleans()
depths = st.sampled_from([1, 99, 100, 101, 250]).map(lambda depth: json.loads("[" * depth + "]" * depth))
values = (
    st.recursive(
        scalars,
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(words.filter(lambda text: len(text) < 80), inner, max_size=3)
        ),
        max_leaves=5,
    )
    | depths
    | st.sampled_from([19, 20, 21, 50, 51, 100, 101]).map(lambda size: {f"k{n}": "x" for n in range(size)})
    | st.sampled_from([8, 9, 30, 31, 50, 51]).map(lambda size: ["ann@example.com"] * size)
)
moments = st.none() | st.sampled_from([
    "infinity", "-infinity", "0001-01-01T00:00:00+14:00", "0001-01-02T00:00:00Z", "9999-12-30T00:00:00Z", "9999-12-31T23:59:59Z",
    "10000-01-01", "4713-01-01 BC", "2020-01-01", "2031-01-01T00:00:00+02:00", "2031-01-01 24:00", "tomorrow", "2040-02-29T00:00:00Z",
])  # fmt: skip
ids = st.none() | st.sampled_from([-1, 0, 1, 2**63 - 1])


def json_text(value: Any) -> str:
    """JSON with a Decimal's own digits."""
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{json.dumps(name)}:{json_text(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(json_text, value)) + "]"
    return json.dumps(value)


@st.composite
def changed(draw: st.DrawFn, value: Any, field: Mapping[str, Any], root: Mapping[str, Any]) -> Any:
    """A value changed somewhere; texts often match the pattern that SQL has for them."""
    alternatives = [each for each in branches(field, root) if each.get("type") != "null"]
    branch = draw(st.sampled_from(alternatives)) if alternatives else {}
    what = draw(st.integers(0, 5))
    if what == 0:
        return draw(values)
    if SQL_PATTERN in branch and what < 4:
        return draw(st.from_regex(re.compile(branch[SQL_PATTERN].removesuffix("$") + r"\Z")))
    if branch.get("type") == "object" and "properties" in branch:
        made = dict(value) if isinstance(value, Mapping) else {}
        return draw(with_changes(made, branch, root))
    if branch.get("type") == "array" and isinstance(branch.get("items"), Mapping):
        items = list(value) if isinstance(value, list | tuple) else []
        one = draw(changed(items[0] if items else None, branch["items"], root))
        return [one, *items[1:]]
    if branch.get("type") == "object":
        inner = branch.get("additionalProperties")
        each = values if not isinstance(inner, Mapping) or not inner else changed(None, inner, root)
        return draw(st.dictionaries(words.filter(lambda text: len(text) < 80), each, max_size=3))
    return draw(
        words if branch.get("type") == "string" else numbers if branch.get("type") in {"integer", "number"} else values
    )


@st.composite
def with_changes(
    draw: st.DrawFn, given_value: dict[str, Any], field: Mapping[str, Any], root: Mapping[str, Any]
) -> dict[str, Any]:
    names = [*field["properties"]]
    for name in draw(st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True)):
        if draw(st.integers(0, 6)) == 0:
            given_value.pop(name, None)
        else:
            given_value[name] = draw(changed(given_value.get(name), field["properties"][name], root))
    if draw(st.integers(0, 30)) == 0:
        given_value["other"] = 1
    return given_value


@st.composite
def payloads(draw: st.DrawFn, kind: type[MessageType]) -> Any:
    if draw(st.integers(0, 30)) == 0:
        return draw(values)
    schema = kind.model_json_schema()
    return draw(with_changes(dict(kind.example), schema, schema))


@st.composite
def recipients(draw: st.DrawFn, kind: type[MessageType]) -> str:
    examples: dict[str, Any] = {channel: definition(channel).recipient_example for channel in kind.channels}
    if draw(st.booleans()):
        for channel in kind.channels:
            pattern = re.compile(rf"(?:{definition(channel).recipient_pattern()})\Z")
            examples[channel] = draw(
                st.from_regex(pattern, fullmatch=True) | words | words | numbers
                if len(examples) > 1
                else words | st.from_regex(pattern, fullmatch=True)
            )
        if draw(st.integers(0, 9)) == 0:
            examples["fax"] = "1"
    return json_text(examples) if len(kind.channels) > 1 else str(next(iter(examples.values())))


kinds = st.sampled_from(registry.all_types())
enqueue_options = {
    "due_at": moments, "priority": st.none() | st.integers(-1, 12), "expires_at": moments, "request_id": st.none() | words,
    "lane": st.none() | words | st.sampled_from(sorted(settings().lanes)), "replay_of": ids,
    "key_scope": st.none() | words,
}  # fmt: skip
keys = st.none() | words
ADDRESS = {
    "channel": st.sampled_from([*CHANNELS, "Email", "fax", "", None]),
    "address": st.none() | words | st.sampled_from([definition(name).recipient_example for name in CHANNELS]),
}
TOPIC = st.sampled_from(["newsletter", ALL_TOPICS, None]) | words
TIMES = st.none() | st.sampled_from(["17:00", "24:00", "00:00", "12:30:15", "12:30:00.5", "25:00", "noon"])
PARAMETERS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "enqueue": {"type": kinds.map(lambda kind: kind.type_name) | words, "recipient": words, "payload": values,
                "idempotency_key": keys, **enqueue_options},
    "enqueue_many": {"type": words, "recipients": words, "payloads": values, "idempotency_keys": keys, **enqueue_options},
    "suppress": {**ADDRESS, "reason": st.sampled_from(["manual", "complaint", "no such", "", None]), "detail": st.none() | words,
                 "until": moments, "source": st.none() | words, "message_id": ids},
    "opt_out": {**ADDRESS, "topic": TOPIC, "source": st.none() | words, "message_id": ids},
    "opt_in": {**ADDRESS, "topic": TOPIC},
    "set_preference": {**ADDRESS, "zone": st.none() | words, "quiet_from": TIMES, "quiet_until": TIMES,
                       "per_day": st.none() | st.integers(-1, 1001) | st.sampled_from([32767, 32768])},
}  # fmt: skip
"""A strategy for each parameter of each function that an app may call; `calls` fits them to a type."""


@st.composite
def calls(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A function and its arguments: an enqueue's mostly valid, but for one thing or two."""
    name = draw(st.sampled_from(["enqueue"] * 6 + sorted(PARAMETERS)))
    parameters = PARAMETERS[name]
    if not name.startswith("enqueue"):
        chosen = draw(st.lists(st.sampled_from(sorted(set(parameters) - set(ADDRESS))), max_size=3, unique=True))
        return name, {each: draw(parameters[each]) for each in [*ADDRESS, *chosen]}
    kind = draw(kinds)
    arguments = {
        each: draw(parameters[each]) for each in draw(st.lists(st.sampled_from(sorted(enqueue_options)), max_size=2))
    }
    if name == "enqueue":
        type_name = draw(parameters["type"]) if draw(st.integers(0, 30)) == 0 else kind.type_name
        one = {"type": type_name, "recipient": draw(recipients(kind)), "payload": json_text(draw(payloads(kind)))}
        return name, one | ({"idempotency_key": draw(keys)} if draw(st.integers(0, 9)) == 0 else {}) | arguments
    count = draw(st.integers(1, 3))
    many: dict[str, Any] = {
        "type": kind.type_name,
        "recipients": [draw(recipients(kind)) for _ in range(count)],
        "payloads": [json_text(draw(payloads(kind))) for _ in range(count)],
    }
    if draw(st.integers(0, 9)) == 0:
        many["idempotency_keys"] = [draw(keys) for _ in range(count)]
    return name, many | arguments


# --- both entry points ------------------------------------------------------------------------------

CASTS = {"payload": "jsonb", "payloads": "text[]::jsonb[]", "recipients": "text[]", "idempotency_keys": "text[]", "due_at": "timestamptz",
         "expires_at": "timestamptz", "until": "timestamptz", "quiet_from": "time", "quiet_until": "time", "priority": "integer",
         "per_day": "integer", "replay_of": "bigint", "message_id": "bigint"}  # fmt: skip


def is_known(problem: str, given_text: str) -> bool:
    """Whether it is an intended difference. A problem's text quotes only the beginning of a value."""
    if "is not an email address" in problem and "xn--" in given_text.lower():
        return True
    return any(re.search(pattern, problem) for pattern in DIFFERENCES)


class NoServers:
    """Connections of channels that only prepare messages."""

    def smtp_server(self, connection_id: str) -> SmtpServer:  # noqa: ARG002
        return SmtpServer("127.0.0.1", 1)

    def http_gateway(self, connection_id: str) -> HttpGateway:
        return HttpGateway(
            connection_id,
            "http://127.0.0.1:1",
            "AC1",
            "secret",
            {"service_account": service_account("http://127.0.0.1:1/token")},
        )

    def app_dsn(self) -> str:
        return ""


@dataclass
class Entrances:
    """SQL and HTTP on one database, and the channels."""

    api: Api
    channels: Mapping[str, Channel[Any]]

    def check(self, name: str, arguments: Mapping[str, Any]) -> None:
        """What SQL accepts, HTTP accepts, and it can be sent."""
        note(f"{name}: {arguments}")
        connection = self.api.connection
        listed = ", ".join(f"{each} => %({each})s::{CASTS.get(each, 'text')}" for each in arguments)
        try:
            with connection.transaction(force_rollback=True):
                connection.execute(f"SELECT backline.{name}({listed})", arguments)
                messages = self.api.sql(
                    "SELECT m.*, m.payload::text AS payload_json FROM backline.message AS m WHERE m.xmin = pg_current_xact_id()::xid"
                )
                read = {
                    each: self.as_read(arguments[each], CASTS[each])
                    for each in arguments
                    if each in CASTS and "json" not in CASTS[each]
                }
        except psycopg.errors.DataError:
            return
        except psycopg.errors.UniqueViolation as exc:
            if exc.diag.column_name is None:  # PostgreSQL's own
                raise
            return
        for message in messages:
            self.deliver(message)
        HTTP[name](self, {**arguments, **read})

    def as_read(self, value: Any, kind: str) -> Any:
        """The value that PostgreSQL understood, as JSON."""
        return self.api.sql(f"SELECT to_json(%s::{kind}) AS value", value)[0]["value"]

    def deliver(self, row: DictRow) -> None:
        kind = registry.get(row["type"])
        try:
            payload = from_json(row["payload_json"])
            payload |= {
                field: kind.fake_secret(field) for field in kind.secret_fields if payload.get(field) is not None
            }
            raw = None if kind.secret_fields else row["payload_json"]
            self.channels[row["channel"]].prepare(
                Message(row["id"], row["type"], row["recipient"], payload, row["created_at"], 1, raw)
            )
        except InvalidInput as exc:
            if not is_known(str(exc), row["recipient"] + row["payload_json"]):
                raise AssertionError(f"accepted, but cannot be sent: {exc}") from exc

    def accepted(self, path: str, body: str | Mapping[str, Any], headers: Mapping[str, str] | None = None) -> None:
        content = body if isinstance(body, str) else json_text(body)
        answer = self.api.call(
            "POST", path, content=content, headers={"Content-Type": "application/json", **(headers or {})}
        )
        if answer.status_code == 422 and is_known(answer.text, content):
            return
        assert answer.status_code < 300, f"SQL accepts it, HTTP does not: {answer.text}"


def http_message(arguments: Mapping[str, Any], recipient: str, payload: str) -> str:
    kind = registry.get(arguments["type"])
    to = recipient if len(kind.channels) > 1 else json.dumps(recipient)
    given_fields = [
        name for name in ("due_at", "expires_at", "priority", "lane", "request_id") if arguments.get(name) is not None
    ]
    if kind.secret_fields:  # over HTTP in plaintext
        secrets = {
            name: kind.fake_secret(name) for name in kind.secret_fields if from_json(payload).get(name) is not None
        }
        payload = json_text({**json.loads(payload, parse_float=Decimal), **secrets})
    rest = "".join(f',"{name}":{json_text(arguments[name])}' for name in given_fields)
    return f'{{"type":{json.dumps(arguments["type"])},"to":{to},"payload":{payload}{rest}}}'


def send_one(entrances: Entrances, arguments: Mapping[str, Any]) -> None:
    entrances.accepted("messages", http_message(arguments, arguments["recipient"], arguments["payload"]))


def send_many(entrances: Entrances, arguments: Mapping[str, Any]) -> None:
    pairs = zip(arguments["recipients"], arguments["payloads"], strict=True)
    entrances.accepted("messages", "[" + ",".join(http_message(arguments, *pair) for pair in pairs) + "]")


def suppress(entrances: Entrances, arguments: Mapping[str, Any]) -> None:
    body = {name: arguments[name] for name in ("channel", "address", "until") if arguments.get(name) is not None}
    entrances.accepted("suppressions", body)


def choose_topic(entrances: Entrances, arguments: Mapping[str, Any]) -> None:
    body = {
        "channel": arguments["channel"],
        "address": arguments["address"],
        "opted_out": [arguments.get("topic", ALL_TOPICS)],
    }
    entrances.accepted("preferences", body)


def set_preference(entrances: Entrances, arguments: Mapping[str, Any]) -> None:
    body = {name: value for name, value in arguments.items() if value is not None}
    for name in {"quiet_from", "quiet_until"} & set(body):
        body[name] = body[name].removesuffix(":00").replace("24:00", "00:00")
    entrances.accepted("preferences", body)


HTTP: dict[str, Callable[[Entrances, Mapping[str, Any]], None]] = {
    "enqueue": send_one, "enqueue_many": send_many, "suppress": suppress, "opt_out": choose_topic, "opt_in": choose_topic,
    "set_preference": set_preference,
}  # fmt: skip


@pytest.fixture
def entrances(api: Api) -> Iterator[Entrances]:
    channels = {name: definition(name).create(settings(), NoServers(), renderer(name)) for name in CHANNELS}
    yield Entrances(api, channels)
    api.sql("TRUNCATE backline.message, backline.idempotency, backline.audit_trail CASCADE")


def test_each_parameter_of_each_function_for_apps_has_a_strategy(api: Api) -> None:
    found = api.sql(
        "SELECT proname AS name, proargnames[1:pronargs] AS parameters FROM pg_proc"
        " WHERE pronamespace = 'backline'::regnamespace AND prosecdef ORDER BY 1"
    )
    assert {row["name"]: set(row["parameters"]) for row in found} == {
        name: set(each) for name, each in PARAMETERS.items()
    }
    assert HTTP.keys() == PARAMETERS.keys()


@pytest.mark.parametrize(
    "seconds",
    [
        10,
        pytest.param(60, marks=pytest.mark.extended),
        pytest.param(3600, marks=[pytest.mark.long, pytest.mark.timeout(4000)]),
    ],
)
def test_what_sql_accepts_http_accepts_and_can_be_sent(entrances: Entrances, seconds: int) -> None:
    @given(call=calls())
    @profile(
        max_examples=200, deadline=None, database=None, phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    def check(call: tuple[str, dict[str, Any]]) -> None:
        entrances.check(*call)

    end = time.monotonic() + seconds
    while time.monotonic() < end:
        check()
        entrances.api.sql("TRUNCATE backline.message, backline.idempotency, backline.audit_trail CASCADE")
