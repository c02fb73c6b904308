"""The idempotency keys that Backline's own code derives: all share one scope, so no two messages may derive the same."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import permutations

from backline.settings import ROOT

SENDERS = {"enqueue", "enqueue_or_record", "NewMessage"}


def derived_keys() -> dict[str, str]:
    """Where each key is derived, by its template: "order:{}:receipt"."""
    found: dict[str, str] = {}
    for path in sorted((ROOT / "plugins" / "backline").rglob("*.py")):
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                found |= dict.fromkeys(templates(function), f"{path.name}: {function.name}")
    return found


def templates(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    nodes = list(ast.walk(function))
    assigned = {
        target.id: node.value
        for node in nodes if isinstance(node, ast.Assign)
        for target in node.targets if isinstance(target, ast.Name)
    }  # fmt: skip
    for call in nodes:
        if not (isinstance(call, ast.Call) and ast.unparse(call.func).rpartition(".")[2] in SENDERS):
            continue
        for key in (keyword.value for keyword in call.keywords if keyword.arg == "key"):
            value = assigned.get(key.id) if isinstance(key, ast.Name) else key
            value = value.value if isinstance(value, ast.Subscript) else value  # cut to the maximum length
            if isinstance(value, ast.JoinedStr):
                yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in value.values)
            elif value is not None:
                raise AssertionError(f"{function.name}: write the key as an f-string, not {ast.unparse(value)}")


def test_no_two_messages_derive_the_same_key() -> None:
    keys = derived_keys()
    assert {"order:{}:confirmation", "order:{}:receipt", "payment:{}:failed:{}:{}", "{}/{}"} <= keys.keys()
    for one, other in permutations(keys, 2):
        pattern = re.escape(other).replace(re.escape("{}"), ".+")
        assert not re.fullmatch(pattern, one.replace("{}", "x")), (
            f"{keys[other]} may derive the key {other!r} that {keys[one]} derives: {one!r}; name the message in it"
        )
