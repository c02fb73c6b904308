"""Every row class has the columns of the statements that are read into it, with their types."""

from __future__ import annotations

import ast
import builtins
import dataclasses
import importlib
import re
import types
import typing
from collections.abc import Iterator, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import psycopg
import pytest
from psycopg.conninfo import make_conninfo
from psycopg.postgres import types as postgres_types

from backline.db.statements import statement, to_positional
from backline.settings import ROOT
from tests.integration.conftest import create, drop

PLUGINS = ROOT / "plugins"
PYTHON_TYPES: Mapping[str, type] = {
    "bool": bool, "int2": int, "int4": int, "int8": int, "float4": float, "float8": float, "numeric": Decimal, "text": str, "name": str,
    "bpchar": str, "varchar": str, "date": date, "timestamptz": datetime, "time": time, "interval": timedelta, "uuid": UUID,
    "bytea": bytes, "void": str,
}  # fmt: skip


class Read(NamedTuple):
    """A call that reads the rows of a statement as a type."""

    place: str
    domain: str
    name: str
    row: Any

    def __str__(self) -> str:
        return f"{self.place}: {self.domain}.{self.name}"


def reads(path: Path) -> Iterator[Read]:
    """The calls of a module with `statement("domain", "name"), Row` among their arguments."""
    name = ".".join(path.relative_to(PLUGINS).with_suffix("").parts).removesuffix(".__init__")
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        for read, row in zip(node.args, node.args[1:], strict=False):
            if not (isinstance(read, ast.Call) and ast.unparse(read.func) == "statement"):
                continue
            if all(isinstance(part, ast.Constant) for part in read.args) and (found := resolve(row, name)) is not None:
                domain, statement_name = (str(ast.literal_eval(part)) for part in read.args)
                yield Read(f"{path.relative_to(PLUGINS)}:{node.lineno}", domain, statement_name, found)


def resolve(node: ast.expr, module_name: str) -> Any:
    """The type that an expression of the module means; None for a parameter, such as the row of a helper."""
    if not isinstance(node, ast.Name | ast.Attribute | ast.Subscript):
        return None
    known = {**vars(builtins), **vars(importlib.import_module(module_name))}
    text = ast.unparse(node)
    return eval(text, known) if re.match(r"\w+", text)[0] in known else None  # type: ignore[index]


READS = [read for path in sorted((PLUGINS / "backline").rglob("*.py")) for read in reads(path)]


@pytest.fixture(scope="module")
def described(server: str, template: str) -> Iterator[psycopg.Connection[Any]]:
    create(server, "backline_rows", template)
    with psycopg.connect(make_conninfo(server, dbname="backline_rows"), autocommit=True) as connection:
        yield connection
    drop(server, "backline_rows")


def columns(connection: psycopg.Connection[Any], domain: str, name: str) -> dict[str, int]:
    """The columns of a statement with the ids of their types."""
    result = connection.pgconn.prepare(b"", to_positional(statement(domain, name)).encode())
    assert not result.error_message, result.error_message
    found = connection.pgconn.describe_prepared(b"")
    return {(found.fname(index) or b"").decode(): found.ftype(index) for index in range(found.nfields)}


def accepts(hint: Any, oid: int) -> bool:
    """Whether a field of that type can hold the column's values; null is not known of a column."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return any(accepts(part, oid) for part in typing.get_args(hint) if part is not type(None))
    origin, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin is typing.Literal:
        return all(accepts(type(value), oid) for value in arguments)
    info = postgres_types.get(oid)
    if info is None:  # an enum of ours
        return isinstance(origin, type) and issubclass(origin, str)
    if oid == info.array_oid:
        return bool(arguments) and accepts(arguments[0], info.oid)
    if info.name in ("json", "jsonb"):
        return origin is object or (isinstance(origin, type) and not issubclass(origin, int | float | datetime))
    wanted = PYTHON_TYPES[info.name]
    return isinstance(origin, type) and issubclass(origin, wanted) and (wanted is bool or origin is not bool)


def test_rows_are_read() -> None:
    assert len(READS) > 30


@pytest.mark.parametrize("read", READS, ids=str)
def test_a_row_has_the_statements_columns(described: psycopg.Connection[Any], read: Read) -> None:
    found = columns(described, read.domain, read.name)
    if not dataclasses.is_dataclass(read.row):  # the value of a single column; of no column if only the effect counts
        assert len(found) <= 1
        assert all(accepts(read.row, oid) for oid in found.values())
        return
    hints = typing.get_type_hints(read.row)
    required = {
        each.name
        for each in dataclasses.fields(read.row)
        if each.default is each.default_factory is dataclasses.MISSING
    }
    assert required <= found.keys() <= hints.keys()
    wrong = {name: hints[name] for name, oid in found.items() if not accepts(hints[name], oid)}
    assert not wrong
