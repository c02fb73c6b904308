"""Compares the message types with a committed snapshot, so that a change cannot break messages that are already waiting.

`./backline check` prints what is wrong with the types' changes since the snapshot; `./backline generate` updates the snapshot,
unless a change is incompatible. See docs/messages.md, "Changing a message type".
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from backline.errors import InvalidInput
from backline.messages import registry
from backline.messages.base import MessageType
from backline.messages.fields import SQL_KEYWORDS
from backline.messages.rules import branches
from backline.messages.secrets import plaintext
from backline.settings import ROOT

FILE = ROOT / "include" / "config" / "message_types.json"
REWRITE = "run ./backline generate"
ANNOTATIONS = frozenset({"title", "description", "examples", "default"}) | SQL_KEYWORDS
"""Keywords that do not affect which payloads are valid."""
LOWER_BOUNDS = ("minLength", "minItems", "minProperties", "minimum", "exclusiveMinimum")
MAX_DEPTH = 20
UPPER_BOUNDS = ("maxLength", "maxItems", "maxProperties", "maximum", "exclusiveMaximum")

Json = dict[str, Any]


def check(types: Sequence[type[MessageType]] | None = None, file: Path = FILE) -> list[str]:
    """What is wrong with the types compared with the snapshot: incompatible changes, and a snapshot that is out of date."""
    kinds = registry.all_types() if types is None else types
    old = _read(file)
    problems = _incompatible(kinds, old)
    if not problems and _merged(kinds, old) != old:
        problems.append(f"{file.name} is out of date; {REWRITE}")
    return problems


def write(types: Sequence[type[MessageType]] | None = None, file: Path = FILE) -> list[str]:
    """Update the snapshot; returns the incompatible changes, with which it is left as it is."""
    kinds = registry.all_types() if types is None else types
    old = _read(file)
    if not (problems := _incompatible(kinds, old)):
        text = json.dumps(_merged(kinds, old), indent=1, sort_keys=True, ensure_ascii=False)
        file.write_text(text + "\n", encoding="utf-8")
    return problems


def _read(file: Path) -> Json:
    """The snapshot: type name to version to what messages of that version look like."""
    loaded: Json = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return loaded


def _merged(kinds: Sequence[type[MessageType]], old: Mapping[str, Json]) -> Json:
    """The snapshot with the types' current versions; older versions are kept, as their messages may still be waiting."""
    return {kind.type_name: {**old.get(kind.type_name, {}), str(kind.version): _entry(kind)} for kind in kinds}


def _entry(kind: type[MessageType]) -> Json:
    entry = {
        "channels": sorted(kind.channels),
        "secret": sorted(kind.secret_fields),
        "schema": _without_annotations(kind.model_json_schema()),
        "example": dict(kind.example),
    }
    normalized: Json = json.loads(json.dumps(entry, default=str))
    return normalized


def _without_annotations(schema: Any, *, names: bool = False) -> Any:
    """The schema without annotations; `names`: its keys are names of fields and definitions, not keywords."""
    if isinstance(schema, list):
        return [_without_annotations(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: _without_annotations(value, names=not names and key in {"properties", "$defs"})
        for key, value in schema.items()
        if names or key not in ANNOTATIONS
    }


def _incompatible(kinds: Sequence[type[MessageType]], old: Mapping[str, Json]) -> list[str]:
    removed = sorted(set(old) - {kind.type_name for kind in kinds})
    return [
        *(
            f"{name}: was removed; delete its entry from the snapshot once no message of it is waiting"
            for name in removed
        ),
        *(f"{kind.type_name}: {problem}" for kind in kinds for problem in _problems(kind, old.get(kind.type_name, {}))),
    ]


def _problems(kind: type[MessageType], entries: Mapping[str, Json]) -> Iterator[str]:
    """What is incompatible in one type, compared with the versions in the snapshot."""
    versions = {int(version): entry for version, entry in entries.items()}
    if kind.version < (latest := max(versions, default=0)):
        yield f"its version {kind.version} is lower than {latest} in the snapshot"
        return
    for version, entry in sorted(versions.items()):
        if version < kind.version and (failure := _upgrade_failure(kind, version, entry)):
            yield f"`upgrade` does not convert version {version}: {failure}"
        elif version == kind.version:
            for change in _changes(entry, _entry(kind)):
                yield f"{change}; raise its version to {version + 1} and define `upgrade`, or undo the change"


def _upgrade_failure(kind: type[MessageType], version: int, entry: Json) -> str | None:
    """Why the old version's example, in full and with its required fields only, is not valid after `upgrade`."""
    if missing := sorted(set(entry["channels"]) - set(kind.channels)):
        return f"the type is no longer sent over {missing[0]}"
    required = entry["schema"].get("required", ())
    for example in (entry["example"], {name: entry["example"][name] for name in required if name in entry["example"]}):
        try:
            payload = kind.upgrade(dict(example), version)
            kind.parse(plaintext(kind, payload, kind.fake_secret))
        except InvalidInput as exc:
            return str(exc)
        except Exception as exc:  # noqa: BLE001 - whatever `upgrade` raises
            return f"{type(exc).__name__}: {exc}"
    return None


# --- compatibility of two schemas: is each payload that was valid still valid? ---------------------------------


def _changes(old: Json, new: Json) -> Iterator[str]:
    for channel in sorted(set(old["channels"]) - set(new["channels"])):
        yield f"channel {channel} was removed"
    for field in sorted(set(old["secret"]) ^ set(new["secret"])):
        yield f"field {field} {'became' if field in new['secret'] else 'is no longer'} secret"
    yield from _narrowed(old["schema"], new["schema"], (old["schema"], new["schema"]), "")


def _narrowed(old: Mapping[str, Any], new: Mapping[str, Any], roots: tuple[Json, Json], path: str) -> Iterator[str]:
    """How `new` is narrower than `old` at `path`; references are followed, recursive ones to a limited depth."""
    if path.count(".") + path.count("[]") > MAX_DEPTH:
        return
    new_branches = list(branches(new, roots[1]))
    for branch in branches(old, roots[0]):
        found = [list(_branch_narrowed(branch, other, roots, path)) for other in new_branches]
        if all(found):
            # The alternative that comes closest explains it best.
            yield from min(found, key=lambda changes: (any("type" in change for change in changes), len(changes)))


def _branch_narrowed(
    old: Mapping[str, Any], new: Mapping[str, Any], roots: tuple[Json, Json], path: str
) -> Iterator[str]:
    where = f"field {path}" if path else "payload"
    old_type, new_type = old.get("type"), new.get("type")
    if new_type is not None and old_type != new_type and (old_type, new_type) != ("integer", "number"):
        yield f"{where}: type {old_type or 'any'} is no longer allowed"
        return
    for keyword, tighter in (*((name, 1) for name in LOWER_BOUNDS), *((name, -1) for name in UPPER_BOUNDS)):
        before, after = old.get(keyword), new.get(keyword)
        if (
            after is not None
            and (before is None or (after - before) * tighter > 0)
            and (keyword, after) != ("minLength", 0)
        ):
            yield f"{where}: {keyword} changed from {before} to {after}"
    for keyword in ("pattern", "format"):
        if new.get(keyword) not in {None, old.get(keyword)}:
            yield f"{where}: {keyword} changed from {old.get(keyword)} to {new[keyword]}"
    yield from _values_narrowed(old, new, where)
    yield from _members_narrowed(old, new, roots, path)


def _values_narrowed(old: Mapping[str, Any], new: Mapping[str, Any], where: str) -> Iterator[str]:
    allowed = new.get("enum", [new["const"]] if "const" in new else None)
    if allowed is None:
        return
    before = old.get("enum", [old["const"]] if "const" in old else None)
    if before is None:
        yield f"{where}: only {', '.join(map(repr, allowed))} are allowed now"
    elif removed := [value for value in before if value not in allowed]:
        yield f"{where}: {', '.join(map(repr, removed))} is no longer allowed"


def _members_narrowed(
    old: Mapping[str, Any], new: Mapping[str, Any], roots: tuple[Json, Json], path: str
) -> Iterator[str]:
    """Of an object's properties and an array's items."""
    old_fields, new_fields = old.get("properties", {}), new.get("properties", {})
    prefix = f"{path}." if path else ""
    rest = new.get("additionalProperties", True)
    for name, field in old_fields.items():
        if name in new_fields:
            yield from _narrowed(field, new_fields[name], roots, f"{prefix}{name}")
        elif rest is False:
            yield f"field {prefix}{name} was removed"
    required = set(new.get("required", ()))
    for name in sorted(required - set(old.get("required", ()))):
        yield f"field {prefix}{name} {'became' if name in old_fields else 'is new and'} required"
    for keyword in ("items", "additionalProperties"):
        before, after = old.get(keyword, True), new.get(keyword, True)
        if after is False and before is not False:
            yield f"field {path}: unknown keys are no longer allowed"
        elif isinstance(after, dict) and before is not False:
            yield from _narrowed(before if isinstance(before, dict) else {}, after, roots, f"{path}[]")


def main(arguments: Sequence[str]) -> int:
    """Check, or with `--write` update, the snapshot; 1 if something is wrong."""
    problems = write() if "--write" in arguments else check()
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
