"""docs/limits.md and the code name the same limits; caches of texts from outside are bounded."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from datetime import timedelta
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, TypeAdapter

from backline.caching import MAX_CACHED_LENGTH, cache_short_texts
from backline.settings import ROOT
from backline.settings.base import registered_sections

PACKAGE = ROOT / "plugins" / "backline"
ROW = re.compile(
    r"^\| (?P<what>[^|]+) \| (?P<limit>[\d,]+)(?: (?P<unit>[a-zA-Z]+))? \| (?P<where>`.+`) \|$", re.MULTILINE
)
UNITS = {
    "KiB": 2**10,
    "MiB": 2**20,
    "ms": 0.001,
    "s": 1,
    "min": 60,
    "h": 3600,
    "days": 86_400,
    "characters": 1,
    "bytes": 1,
    None: 1,
}
PAGE = (ROOT / "docs" / "limits.md").read_text("utf-8")
ROWS = [(match["where"], match["limit"], match["unit"]) for match in ROW.finditer(PAGE)]
KEYWORDS = ("maxLength", "maxItems", "maxProperties", "maximum")
LIMITED = ("web", "messages", "channels", "delivery_events", "webhooks")
"""Packages for what comes from outside: each of their limits has a row."""
NAME = re.compile(r"_?MAX_\w+|\w+_(LIMIT|TIMEOUT_SECONDS|MAX_LENGTH|BODY_BYTES)")
INTERNAL = {
    "web.roles:LARGE_BODY_BYTES": "only the setting limits these bodies",
    "web.limits:LARGE_BODY_BYTES": "from which memory is given back",
    "channels.email.channel:_MAX_TIMEOUT_SECONDS": "of the longest attachment",
    "channels.email.mime:MAX_ENCODED_LINE_LENGTH": "of lines that Backline writes",
    "channels.email.mime:_MAX_UNENCODED_LINE_LENGTH": "of lines that Backline writes",
    "channels.webhook.endpoints:MAX_CACHED_ENDPOINTS": "of a cache",
    "channels.webhook.endpoints:MAX_REASON_LENGTH": "cuts our own text",
    "messages.run_conf:MAX_KEY_LENGTH": "of a key that an error repeats",
    "messages.sql_checks:MAX_PATTERN_LENGTH": "where SQL checks a limit",
}
FIXED_KEYS = {
    "channels/email/mime.py:_part_head": "two subtypes and three encodings",
    "channels/raw_json.py:_decoder": "names of members",
    "channels/registry.py:definition": "names of channels; others raise",
    "messages/registry.py:_load": "names of modules",
    "rendering/catalog.py:templates": "names of channels",
    "rendering/templates.py:_email_template": "names of templates, others raise; languages have at most 6 characters",
    "rendering/templates.py:_environment": "names of channels",
    "rendering/templates.py:_sms_template": "as _email_template",
    "db/connect.py:_bounded_loader": "names of types",
    "db/statements.py:statements": "names of our files",
    "settings/base.py:find_job_section": "names of jobs",
    "preferences/quiet_hours.py:_zone": "names of the IANA database",
}
"""Cached functions of texts that are not from outside."""


def test_every_row_is_read() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ") and not line.startswith("| what |")]
    assert len(rows) == len(ROWS) > 80


@pytest.mark.parametrize(("where", "limit", "unit"), ROWS, ids=[row[0] for row in ROWS])
def test_a_documented_limit_is_that_of_the_code(where: str, limit: str, unit: str | None) -> None:
    number = int(limit.replace(",", ""))
    for reference in re.findall(r"`([^`]+)`", where):
        file, is_sql, text = reference.partition(".sql: ")
        if is_sql:
            assert text in (ROOT / "include/sql/migrations" / f"{file}.sql").read_text("utf-8")
            assert str(number) in text
        else:
            assert code_value(reference) in {number, number * UNITS[unit]}


def code_value(reference: str) -> float:
    """The number of a constant, of a setting's default, or of an annotated type or field."""
    module, is_code, path = reference.partition(":")
    if not is_code:
        section, _, name = reference.partition(".")
        return float(registered_sections()[section].model_fields[name].default)
    found: Any = import_module(module if module.startswith("smtp_pipeline") else f"backline.{module}")
    for part in path.split("."):
        found = found.model_fields[part] if is_model(found) else getattr(found, part)
    if isinstance(found, int | float):
        return found
    if isinstance(found, timedelta):
        return found.total_seconds()
    schema = TypeAdapter(getattr(found, "rebuild_annotation", lambda: found)()).json_schema()
    parts = [schema, *schema.get("anyOf", ())]
    return float(next(part[word] for part in parts for word in KEYWORDS if word in part))


def is_model(found: object) -> bool:
    return isinstance(found, type) and issubclass(found, BaseModel)


def module_nodes(folder: Path) -> Iterator[tuple[Path, ast.stmt]]:
    for path in sorted(folder.rglob("*.py")):
        yield from ((path, node) for node in ast.parse(path.read_text("utf-8")).body)


def is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def test_every_limit_of_what_comes_from_outside_is_documented() -> None:
    found = set()
    for name in LIMITED:
        for path, node in module_nodes(PACKAGE / name):
            if (
                isinstance(node, ast.Assign)
                and isinstance(node.targets[0], ast.Name)
                and not is_text(node.value)
                and NAME.fullmatch(node.targets[0].id)
            ):
                module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
                found.add(f"{module}:{node.targets[0].id}")
    documented = {reference for where, _, _ in ROWS for reference in re.findall(r"`([^`]+)`", where)}
    assert found - documented == set(INTERNAL)
    for section in ("http", "email", "sms", "push", "webhooks"):
        for name in registered_sections()[section].model_fields:
            if re.match(r"max_|.*_max_|.*timeout", name):
                assert f"{section}.{name}" in documented


def test_caches_of_texts_are_bounded() -> None:
    """A cached function with a text parameter uses cache_short_texts, unless its texts are not from outside."""
    plain = set()
    for path, node in module_nodes(PACKAGE):
        if isinstance(node, ast.FunctionDef) and any(
            "str" in ast.unparse(one.annotation or node.args) for one in node.args.args
        ):
            decorators = " ".join(map(ast.unparse, node.decorator_list))
            if re.search(r"\bl?r?u?_?cache\b", decorators):
                plain.add(f"{path.relative_to(PACKAGE)}:{node.name}")
    assert plain == set(FIXED_KEYS)


def test_a_long_text_is_not_cached() -> None:
    calls = []

    @cache_short_texts(8)
    def length(text: str) -> int:
        calls.append(text)
        return len(text)

    short, long = "x" * MAX_CACHED_LENGTH, "x" * (MAX_CACHED_LENGTH + 1)
    assert [length(short), length(short), length(long), length(long)] == [500, 500, 501, 501]
    assert calls == [short, long, long]
