from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from backline.db import statements as module
from backline.db.statements import SQL_FOLDER, statement, statements, to_positional
from backline.errors import Misconfigured
from backline.settings import ROOT, settings

DOMAINS = [path.stem for path in SQL_FOLDER.glob("*.sql")]
# Who people are: a statement there may be named by a message's payload alone.
UNREFERENCED_DOMAINS = {"identity"}
SOURCES = sorted(
    path for folder in ("plugins", "stack", "bench", "chaos", "demo") for path in (ROOT / folder).rglob("*.py")
)
# Methods of the store and of its housekeeping that are given an outbox statement's name, as which argument.
STATEMENT_NAME_ARGUMENTS = {"_sql": 0, "_rows": 0, "_prune_in_batches": 1, "_fetch_throttled": 1, "_fetch_one": 1}


def texts(node: ast.AST) -> list[str | None]:
    return [
        word.value if isinstance(word, ast.Constant) and isinstance(word.value, str) else None
        for word in getattr(node, "args", [])
    ]


def calls() -> Iterator[tuple[str, str]]:
    """Domain and name of the statements that are used by name."""
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            words = texts(node)
            if called == "statement" and len(words) == 2 and words[0] and words[1]:
                yield words[0], words[1]
            elif (
                path.parent.name == "outbox"
                and called in STATEMENT_NAME_ARGUMENTS
                and (name := [*words, None, None][STATEMENT_NAME_ARGUMENTS[called]])
            ):
                yield "outbox", name


def constants() -> set[str]:
    return {
        node.value
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(module, "SQL_FOLDER", tmp_path)
    statements.cache_clear()
    yield tmp_path
    statements.cache_clear()


def test_every_statement_has_a_user() -> None:
    words = constants() | {watch.statement.partition(".")[2] for watch in settings().watches.values()}
    named_here = [domain for domain in DOMAINS if domain not in UNREFERENCED_DOMAINS]
    assert [f"{domain}.{name}" for domain in named_here for name in statements(domain) if name not in words] == []


def test_every_statement_that_is_used_exists() -> None:
    asked = set(calls())
    assert len(asked) > 30
    assert [f"{domain}.{name}" for domain, name in asked if name not in statements(domain)] == []


def test_names_and_texts_are_read(folder: Path) -> None:
    (folder / "shop.sql").write_text(
        "-- The shop's.\n\n-- name: order_get\n-- One order.\n-- By its id.\nSELECT %(id)s;\n\n"
        "-- name: order_all\n-- All.\nSELECT\n    1;\n"
    )
    assert statements("shop") == {"order_get": "SELECT %(id)s;", "order_all": "SELECT\n    1;"}
    assert statement("shop", "order_get") == "SELECT %(id)s;"


@pytest.mark.parametrize(
    "text",
    [
        "-- name: one\nSELECT 1;\n",  # no comment
        "-- name: one\n-- It.\nSELECT 1;\n-- name: one\n-- It again.\nSELECT 2;\n",
        "-- name: one two\n-- It.\nSELECT 1;\n",
        "-- name: one\n-- It.\nSELECT 1\n",  # no end
        "-- name: one\n-- It.\n",
    ],
)
def test_a_malformed_statement_is_named(folder: Path, text: str) -> None:
    (folder / "shop.sql").write_text(text)
    with pytest.raises(Misconfigured, match=r"shop\.sql: -- name: one"):
        statements("shop")


@pytest.fixture
def custom_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A custom folder beside ours, which has two statements."""
    (folder / "shop.sql").write_text("-- name: one\n-- It.\nSELECT 1;\n\n-- name: two\n-- It.\nSELECT 2;\n")
    own = folder / "own"
    own.mkdir()
    monkeypatch.setenv("BACKLINE__DATABASE__STATEMENTS_FOLDER", str(own))
    settings.cache_clear()
    yield own
    settings.cache_clear()


def test_a_custom_statement_replaces_ours(custom_folder: Path) -> None:
    (custom_folder / "shop.sql").write_text(
        "-- name: two\n-- Mine.\nSELECT 22;\n\n-- name: three\n-- Only mine.\nSELECT 33;\n"
    )
    assert statements("shop") == {"one": "SELECT 1;", "two": "SELECT 22;", "three": "SELECT 33;"}


def test_a_custom_folder_may_omit_files(custom_folder: Path) -> None:
    assert list(custom_folder.iterdir()) == []
    assert statement("shop", "two") == "SELECT 2;"


def test_a_missing_custom_folder_is_named(custom_folder: Path) -> None:
    custom_folder.rmdir()
    with pytest.raises(Misconfigured, match=r"database\.statements_folder: .*own is not a folder; create it"):
        statements("shop")


def test_a_malformed_custom_statement_is_named(custom_folder: Path) -> None:
    (custom_folder / "shop.sql").write_text("-- name: two\nSELECT 22;\n")
    with pytest.raises(Misconfigured, match=r"own/shop\.sql: -- name: two"):
        statements("shop")


def test_named_parameters_become_numbers() -> None:
    assert to_positional("SELECT %(b)s::int, %(a)s::text, %(b)s::int WHERE 'x' LIKE '%%y'") == (
        "SELECT $1::int, $2::text, $1::int WHERE 'x' LIKE '%y'"
    )


def test_an_unknown_statement_is_named() -> None:
    with pytest.raises(Misconfigured, match=r"outbox\.sql has no statement named 'message_lose'"):
        statement("outbox", "message_lose")


def test_parameters_are_typed_and_no_statement_is_built_by_format() -> None:
    """Without a cast a parameter's type would depend on the driver's guess."""
    bare = [
        f"{domain}.{name}: {match[0]}"
        for domain in DOMAINS
        for name, text in statements(domain).items()
        for match in module.PARAMETER.finditer(text)
        if not text[match.end() :].startswith("::")
    ]
    assert not bare
