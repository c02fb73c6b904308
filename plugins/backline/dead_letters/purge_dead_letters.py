"""Retention of dead letters: the expired and those over the limit are archived in a file, then deleted."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from backline.db.statements import statement
from backline.dead_letters.settings import DeadLetterSettings
from backline.errors import ResourceExhausted
from backline.files import atomic_file, write_manifest
from backline.jobs.job import Job
from backline.settings import resolve_folder

BATCH_LIMIT = 20_000
"""Dead letters per transaction and archive file; a run processes up to `MAX_BATCHES` of them."""
MAX_BATCHES = 10
FOLDER_SETTING = "dead_letters.archive_folder"


@dataclass(slots=True)
class PurgeReport:
    """What was (dry run: would be) archived and deleted."""

    dry_run: bool
    letters: int = 0
    messages: int = 0
    files: list[str] = field(default_factory=list)
    remaining: int = 0
    """Dead letters that stay."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A dead letter to delete."""

    id: int
    line: str
    """It and its message, as they are archived: a JSON object as text, because it may be more than Python can parse."""


def purge_dead_letters(job: Job[DeadLetterSettings]) -> PurgeReport:
    """Archive and delete dead letters past their retention or over the limit; a dry run only counts the first batch.

    ResourceExhausted if an archive does not read back as written; its dead letters are not deleted then.
    """
    report = PurgeReport(job.dry_run)
    retention_seconds, max_count = job.settings.retention_hours * 3600, job.settings.max_count
    limits = {"retention_seconds": retention_seconds, "max_count": max_count, "batch_limit": BATCH_LIMIT}
    for _ in range(1 if job.dry_run else MAX_BATCHES):
        with job.transaction():
            rows = job.rows(statement("dead_letters", "purge_candidates"), Candidate, limits)
            report.letters += len(rows)
            if job.dry_run or not rows:
                break
            report.files.append(str(write_archive(resolve_folder(job.settings.archive_folder), rows)))
            ids = {"ids": [row.id for row in rows]}
            [deleted] = job.database.execute(statement("dead_letters", "letter_delete"), ids).fetchall()
            report.messages += deleted["messages"]
        if len(rows) < BATCH_LIMIT:
            break
    [count] = job.database.execute(statement("dead_letters", "letter_count")).fetchall()
    report.remaining = count["letters"] - (report.letters if job.dry_run else 0)
    return report


def write_archive(folder: Path, rows: Sequence[Candidate]) -> Path:
    """Write one JSON object per row to a new .jsonl.gz, read it back, and write its manifest."""
    path = folder / f"dead_letters_{datetime.now(UTC):%Y%m%dT%H%M%S%f}_{rows[0].id}.jsonl.gz"
    digest = hashlib.sha256()
    with atomic_file(path, setting=FOLDER_SETTING) as raw, gzip.GzipFile(fileobj=raw, mode="wb") as file:
        for row in rows:
            line = row.line.encode() + b"\n"
            digest.update(line)
            file.write(line)
    try:
        _verify(path, len(rows), digest.hexdigest())
    except (OSError, EOFError, zlib.error, ValueError) as exc:
        path.unlink(missing_ok=True)
        raise ResourceExhausted(f"archive {path} does not read back as written; nothing was deleted: {exc}") from exc
    write_manifest(path, len(rows), setting=FOLDER_SETTING)
    return path


def _verify(path: Path, count: int, digest: str) -> None:
    """ValueError, or an error of gzip, if the file does not hold these lines."""
    found, lines = hashlib.sha256(), 0
    with gzip.open(path, "rb") as file:
        for line in file:
            found.update(line)
            lines += 1
    if (lines, found.hexdigest()) != (count, digest):
        raise ValueError(f"{lines} lines with another checksum")
