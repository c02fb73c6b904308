"""Retention: dead letters past their time or over the cap go into an archive file, and only then out of the table."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from backline.db.statements import statement
from backline.dead_letters.settings import DeadLetterSettings
from backline.dead_letters.store import DeadLetterStore
from backline.errors import Misconfigured, ResourceExhausted

BATCH_LIMIT = 20_000
"""Letters of one round, which is one transaction and one file; a job runs rounds until nothing is left, or `ROUNDS`."""
MAX_BATCHES = 10


@dataclass(slots=True)
class PurgeReport:
    """What was (dry run: would be) archived and deleted."""

    dry_run: bool
    letters: int = 0
    messages: int = 0
    files: tuple[str, ...] = ()
    remaining: int = 0
    """Letters that stay."""

    def as_dict(self) -> dict[str, Any]:
        """For XCom and people."""
        return {**asdict(self), "files": list(self.files)}


def purge_dead_letters(
    letters: DeadLetterStore, config: DeadLetterSettings, folder: Path, *, dry_run: bool
) -> PurgeReport:
    """Archive and delete what is too old or too much.

    ResourceExhausted if an archive does not read back as it was written; nothing is deleted then.
    """
    report = PurgeReport(dry_run)
    for _ in range(1 if dry_run else MAX_BATCHES):
        with letters.connection.transaction():
            values = {
                "retention_seconds": config.retention_hours * 3600,
                "max_count": config.max_count,
                "batch_limit": BATCH_LIMIT,
            }
            rows = letters.connection.execute(statement("dead_letters", "purge_candidates"), values).fetchall()
            report.letters += len(rows)
            if dry_run or not rows:
                break
            report.files += (str(write_archive(folder, rows)),)
            ids = {"ids": [row["id"] for row in rows]}
            [gone] = letters.connection.execute(statement("dead_letters", "letter_delete"), ids).fetchall()
            report.messages += gone["messages"]
        if len(rows) < BATCH_LIMIT:
            break
    [count] = letters.connection.execute(statement("dead_letters", "letter_count")).fetchall()
    report.remaining = count["letters"] - (report.letters if dry_run else 0)
    return report


def write_archive(folder: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Write one JSON object a row to a new .jsonl.gz, beside it a manifest with count and SHA-256, and read it back."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
    path = folder / f"dead_letters_{stamp}_{rows[0]['id']}.jsonl.gz"
    draft = path.with_name(f".{path.name}")
    digest = hashlib.sha256()
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as raw:
            with gzip.GzipFile(fileobj=raw, mode="wb") as file:
                for row in rows:
                    line = json.dumps({**row["letter"], "message": row["message"]}, sort_keys=True).encode() + b"\n"
                    digest.update(line)
                    file.write(line)
            raw.flush()
            os.fsync(raw.fileno())
        _verify(draft, len(rows), digest.hexdigest())
        manifest = {"file": path.name, "letters": len(rows), "sha256_of_lines": digest.hexdigest()}
        path.with_name(f"{path.name}.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        draft.replace(path)
    except PermissionError as exc:
        raise Misconfigured(
            f"{folder}: {exc.strerror}; make it writable, or set dead_letters.archive_folder to a folder that is"
        ) from exc
    except (OSError, EOFError, zlib.error) as exc:  # the two last: it does not read back
        raise ResourceExhausted(f"archive {path}: {exc}; nothing was deleted") from exc
    finally:
        draft.unlink(missing_ok=True)
    return path


def _verify(path: Path, count: int, digest: str) -> None:
    found, lines = hashlib.sha256(), 0
    with gzip.open(path, "rb") as file:
        for line in file:
            found.update(line)
            lines += 1
    if (lines, found.hexdigest()) != (count, digest):
        raise ResourceExhausted(f"archive {path} does not read back as it was written; nothing was deleted")
