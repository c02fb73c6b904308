"""Odd requests to every route of the HTTP API: one odd value in a header, parameter, path or body each, from the OpenAPI document.

`eval "$(./backline env)"; .venv/bin/python -m testkit.http_fuzz` sends 20,000 of them to the running stack and prints the seed, the
requests, the 5xx, and the memory (RSS) of the api-server's processes before and after. Exit code 1: a 5xx, or more than 50 MiB more.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from http.client import HTTPConnection, HTTPException
from random import Random
from typing import Any
from urllib.parse import quote_from_bytes, urlsplit

import psutil

PREFIX = "/backline"
REQUESTS = 20_000
WARM_UP_REQUESTS = 1000
"""Sent before memory is measured: imports and caches."""
MAX_GROWTH_MIB = 50.0
TIMEOUT_SECONDS = 30.0

ODD_TEXTS = (
    b"", b" ", b"\xff\xfe", "é".encode(), "é".encode("latin-1"), "\u0661\U0001d7cf".encode(), b"\x00", b"a\x00b", b"\x1b]0;x\x07",
    b"\xed\xa0\xbd", b"\xe2\x80\xa8", b"%s%n{0}${x}", b"../../etc/passwd", b"'; DROP TABLE x; --", b"-1", b"0", b"1e400", b"NaN",
    b"9223372036854775808", b"1" * 5000, b"x" * 5000, b"t=1700000000,v1=\xe9", b"t=,v1=", b"=", b"a=b" * 300, b"*" * 400,
    b"0001-01-01T00:00:00+14:00", b"9999-12-31T23:59:59-14:00", b"Bearer \xff", b"en-" * 200, b"q=0.1;" * 200, b"1:2:3",
)  # fmt: skip
"""Values of headers, parameters and path parameters."""
ODD_JSON = (
    b"null", b"true", b"0", b"-1", b"1e400", b"-1e-400", b"NaN", b"Infinity", b"9223372036854775808", b"1" * 5000, b"0.1", b"[]", b"{}",
    b'""', b'" "', b'"\\u0000"', b'"\\ud83d"', b'"\\udc00\\ud800"', b'"\xff"', b'"\xc3\xa9"', b'"\\u2028\\u001b]0;x"', b'"*"',
    b'"' + b"x" * 5000 + b'"', b"[" * 300 + b"]" * 300, b'{"a":' * 300 + b"1" + b"}" * 300, b'{"__proto__":{"":1}}', b"[[],{},null,1]",
    b'"0001-01-01T00:00:00+14:00"', b'"9999-12-31T23:59:59-14:00"', b'{"$ref":"x","id":1}', b'"ann@b\\u00fccher.example"', b'"24:00"',
)  # fmt: skip
"""JSON texts of body fields."""
ODD_BODIES = (
    b"", b"{", b"[]", b"null", b"\xff\xfe{\x00}\x00", b"[" * 100_000, b'{"a":' * 5000, b'{"a":1,"a":2}', b"1" * 10_000, b"&=&", b"a=%",
    b"a=\xff&b=%ff", b"x" * 5000, b'"', b"{}{}", b"\xef\xbb\xbf{}", b"action=%00&action=x", b"{" + b",".join(b'"%d":1' % n for n in range(3000)) + b"}",
)  # fmt: skip
COMMON_HEADERS = (
    "Accept", "Accept-Encoding", "Accept-Language", "Authorization", "Content-Type", "Cookie", "Forwarded", "If-None-Match", "Origin", "Range",
    "Referer", "Sec-Fetch-Site", "User-Agent", "X-Forwarded-For", "X-Forwarded-Proto", "X-HTTP-Method-Override", "X-Request-ID",
)  # fmt: skip
"""Headers that frameworks and middleware read, beside those of the document."""


@dataclass(frozen=True, slots=True)
class OddRequest:
    """One request; its target is percent-encoded, and its place names the odd value's."""

    method: str
    target: str
    place: str
    headers: Mapping[str, bytes] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Operation:
    """A route as the document describes it."""

    method: str
    path: str
    parameters: tuple[tuple[str, str], ...]
    """Where ("path", "query", "header") and name."""
    media_type: str | None
    fields: tuple[str, ...]
    """Of its JSON body."""


def operations(document: Mapping[str, Any]) -> Iterator[Operation]:
    """All operations of an OpenAPI document."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            content = operation.get("requestBody", {}).get("content", {})
            names = sorted({name for one in content.values() for name in _field_names(document, one["schema"])})
            parameters = tuple((one["in"], one["name"]) for one in operation.get("parameters", ()))
            yield Operation(method.upper(), path, parameters, next(iter(content), None), tuple(names))


def odd_request(known: list[Operation], random: Random) -> OddRequest:
    """A random operation with one odd value, or a few of them, in a random place."""
    one = random.choice(known)
    places = [
        *one.parameters,
        ("header", random.choice(COMMON_HEADERS)),
        ("body", ""),
        *[("field", name) for name in one.fields],
    ]
    where, name = random.choice(places)
    path, query, headers = one.path, [], {}
    headers["Content-Type"] = (one.media_type or "application/json").encode()
    for kind, parameter in one.parameters:
        odd = (kind, parameter) == (where, name) or random.random() < 0.05
        value = random.choice(ODD_TEXTS) if odd else b"1"
        if kind == "path":
            path = path.replace(f"{{{parameter}}}", quote_from_bytes(value, safe="") or "%20")
        elif kind == "query" and odd:
            query.append(f"{quote_from_bytes(parameter.encode())}={quote_from_bytes(value)}")
        elif kind == "header":
            headers[parameter] = _header(value)
    if where == "header":
        headers[name] = _header(random.choice(ODD_TEXTS))
    body = random.choice(ODD_BODIES) if where == "body" else _object(one.fields, name, random)
    target = path + ("?" + "&".join(query) if query else "")
    return OddRequest(one.method, target, f"{where} {name}".strip(), headers, b"" if one.method == "GET" else body)


SAMPLES = {
    "type": b'"email"', "to": b'"ann@example.com"', "payload": b'{"subject":"Hello","text":"Hi"}', "channel": b'"email"', "address": b'"ann@example.com"',
    "url": b'"https://shop.example/hooks"', "reason": b'"why"', "priority": b"5",
}  # fmt: skip
"""Valid values of required fields, so that the odd one is reached."""


def _object(fields: tuple[str, ...], odd: str, random: Random) -> bytes:
    given = {name: SAMPLES[name] for name in fields if name in SAMPLES}
    if odd in fields:
        given[odd] = random.choice(ODD_JSON)
        if odd == "payload" and random.random() < 0.8:
            given[odd] = b'{"subject":"Hi","text":%s,"cc":[%s]}' % (random.choice(ODD_JSON), random.choice(ODD_JSON))
    return b"{" + b",".join(json.dumps(name).encode() + b":" + value for name, value in given.items()) + b"}"


def _header(value: bytes) -> bytes:
    """Without the bytes that a server's parser refuses before any of our code."""
    return bytes(byte for byte in value if byte >= 32 and byte != 127).strip()


def _field_names(document: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterator[str]:
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    yield from schema.get("properties", ())
    for part in ("anyOf", "oneOf", "allOf"):
        for one in schema.get(part, ()):
            yield from _field_names(document, one)
    if "items" in schema:
        yield from _field_names(document, schema["items"])


class Client:
    """A kept connection to a server, for requests that HTTP libraries refuse to send."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self._connection = HTTPConnection(host, port, timeout=TIMEOUT_SECONDS)

    def send(self, one: OddRequest, token: str | None = None) -> tuple[int, bytes]:
        """The status and body of the response; status 0 if the server closes the connection instead."""
        headers: dict[str, bytes] = {"Connection": b"keep-alive", **one.headers}
        if token is not None:
            headers.setdefault("Authorization", f"Bearer {token}".encode())
        try:
            self._connection.putrequest(one.method, one.target, skip_accept_encoding=True)
            for name, value in headers.items():
                self._connection.putheader(name, value)
            self._connection.putheader("Content-Length", str(len(one.body)))
            self._connection.endheaders(one.body)
            response = self._connection.getresponse()
            return response.status, response.read()
        except (HTTPException, OSError):
            self._connection.close()
            return 0, b""


def memory_mib(port: int) -> float:
    """The resident memory of the processes that serve a port: the listening ones, their parents of the same program, all children."""
    found: set[psutil.Process] = set()
    for listener in psutil.net_connections("tcp"):
        if listener.status == psutil.CONN_LISTEN and listener.laddr and listener.laddr.port == port and listener.pid:
            top = psutil.Process(listener.pid)
            while (parent := top.parent()) is not None and "api-server" in " ".join(parent.cmdline()):
                top = parent
            found |= {top, *top.children(recursive=True)}
    total = 0
    for process in found:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total / 2**20


def fuzz(client: Client, tokens: list[str | None], count: int, random: Random) -> Counter[int]:
    """Send odd requests to a server and count the statuses; each 5xx is printed."""
    _, document = client.send(OddRequest("GET", f"{PREFIX}/openapi.json", "document"))
    known, statuses = list(operations(json.loads(document))), Counter[int]()
    for number in range(count):
        one = odd_request(known, random)
        status, body = client.send(replace(one, target=f"{PREFIX}{one.target}"), random.choice(tokens))
        statuses[status] += 1
        if status >= 500:
            print(number, status, one, body[:500])
    return statuses


def main() -> int:
    """Fuzz the running stack."""
    port = urlsplit(os.environ["BACKLINE_URL"]).port or 80
    seed = os.environ.get("FUZZ_SEED") or str(time.time_ns())
    client, random = Client(port), Random(seed)
    login = {"username": os.environ["BACKLINE_USER"], "password": os.environ["BACKLINE_PASSWORD"]}
    given = OddRequest(
        "POST", "/auth/token", "login", {"Content-Type": b"application/json"}, json.dumps(login).encode()
    )
    tokens = [json.loads(client.send(given)[1])["access_token"], None]
    statuses = fuzz(client, tokens, WARM_UP_REQUESTS, random)
    before = memory_mib(port)
    statuses += fuzz(client, tokens, REQUESTS, random)
    after = memory_mib(port)
    failed = sum(count for status, count in statuses.items() if status >= 500)
    print(f"FUZZ_SEED={seed} requests={statuses.total()} statuses={dict(sorted(statuses.items()))}")
    print(f"http_fuzz: requests={statuses.total()} 5xx={failed} rss_before_mib={before:.0f} rss_after_mib={after:.0f}")
    return int(failed > 0 or after - before > MAX_GROWTH_MIB)


if __name__ == "__main__":
    sys.exit(main())
