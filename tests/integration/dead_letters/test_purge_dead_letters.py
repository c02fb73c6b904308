"""Retention and limit: archived in a file that reads back, and only then deleted."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from backline.dead_letters import purge_dead_letters as module
from backline.dead_letters.purge_dead_letters import PurgeReport, purge_dead_letters
from backline.dead_letters.settings import DeadLetterSettings
from backline.dead_letters.store import DeadLetterStore
from backline.errors import ResourceExhausted
from backline.settings import ROOT
from tests.integration.dead_letters.support import all_dead_letters, make_dead_message, record_failure
from tests.integration.job_factory import create_job
from tests.integration.outbox.support import Outbox, finished_outcome

Purge = Callable[..., PurgeReport]
KILLED = """
import os, signal, sys
from backline.dead_letters import purge_dead_letters as module
from backline.dead_letters.settings import DeadLetterSettings
from tests.integration.job_factory import create_job

module.write_manifest = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
settings = DeadLetterSettings(retention_hours=24.0, archive_folder=sys.argv[2])
create_job(sys.argv[1], settings).execute(module.purge_dead_letters)
"""


@pytest.fixture
def purge(database: str, tmp_path: Path) -> Purge:
    """One run of the job."""

    def run(*, dry_run: bool = False, **settings: Any) -> PurgeReport:
        section = DeadLetterSettings(**{"retention_hours": 24.0, "archive_folder": str(tmp_path), **settings})
        job = create_job(database, section, params={"dry_run": dry_run})
        return PurgeReport(**job.execute(purge_dead_letters))

    return run


def age(store: DeadLetterStore, hours: float, *ids: int) -> None:
    store.connection.execute(
        "UPDATE backline.dead_letter SET last_seen_at = clock_timestamp() - %s * interval '1 h' WHERE id = ANY (%s)",
        [hours, list(ids)],
    )


def archived(folder: Path) -> list[dict[str, Any]]:
    rows = []
    for manifest_file in sorted(folder.glob("*.jsonl.gz.json")):
        path = manifest_file.with_suffix("")
        text = gzip.decompress(path.read_bytes())
        manifest = json.loads(manifest_file.read_text())
        found = [json.loads(line) for line in text.splitlines()]
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        assert manifest == {"file": path.name, "count": len(found), "sha256": sha256}
        rows += found
    return rows


def test_expired_dead_letters_are_archived_and_deleted(store: DeadLetterStore, tmp_path: Path, purge: Purge) -> None:
    old, young = record_failure(store, cause="äöü"), record_failure(store, run_id="r2")
    age(store, 25, old)
    age(store, 23, young)
    report = purge()
    assert (report.letters, report.remaining, len(report.files)) == (1, 1, 1)
    assert [letter["id"] for letter in all_dead_letters(store)] == [young]
    [row] = archived(tmp_path)
    assert (row["id"], row["cause"], row["conf"], row["message"]) == (old, "äöü", {"days": 1}, None)
    assert Path(report.files[0]).stat().st_mode & 0o077 == 0


def test_the_oldest_over_the_limit_are_archived_and_deleted(
    store: DeadLetterStore, tmp_path: Path, purge: Purge
) -> None:
    made = [record_failure(store, run_id=f"r{number}") for number in range(10)]
    report = purge(max_count=4)
    assert (report.letters, report.remaining) == (6, 4)
    assert [letter["id"] for letter in all_dead_letters(store)] == made[:5:-1]
    assert [row["id"] for row in archived(tmp_path)] == made[:6]


def test_a_dry_run_changes_nothing(store: DeadLetterStore, tmp_path: Path, purge: Purge) -> None:
    age(store, 25, record_failure(store))
    report = purge(dry_run=True)
    assert (report.dry_run, report.letters, report.remaining, report.files) == (True, 1, 0, [])
    assert len(all_dead_letters(store)) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_dead_message_is_deleted_with_its_dead_letter_and_counted_in_the_ledger(
    outbox: Outbox, store: DeadLetterStore, tmp_path: Path, purge: Purge
) -> None:
    message_id = make_dead_message(outbox)
    [letter] = all_dead_letters(store)
    age(store, 25, letter["id"])
    assert purge().letters == 0, "its day is not frozen in the ledger"
    outbox.sql("UPDATE backline.message SET created_at = created_at - interval '3 days'")
    outbox.run_statement("ledger_add_closed_days")
    while outbox.run_statement("ledger_freeze_day"):
        pass
    report = purge()
    assert (report.letters, report.messages) == (1, 1)
    [row] = archived(tmp_path)
    assert (row["message"]["id"], row["message"]["recipient"]) == (message_id, "ann@example.com")
    assert "lease_token" not in row["message"]
    assert outbox.value("SELECT count(*) FROM backline.message") == 0
    assert (
        outbox.value(
            "SELECT sum(missing)::integer FROM (SELECT accepted - pruned AS missing FROM backline.ledger) AS l"
        )
        == 0
    )


def test_a_message_with_a_younger_dead_letter_stays(outbox: Outbox, store: DeadLetterStore, purge: Purge) -> None:
    message_id = make_dead_message(outbox)
    outbox.run_statement("message_retry", id=message_id)
    [message] = outbox.claim()
    outbox.complete(finished_outcome(message, "dead", error_class="network", error="again"))
    outbox.sql("UPDATE backline.message SET created_at = created_at - interval '3 days'")
    outbox.run_statement("ledger_add_closed_days")
    while outbox.run_statement("ledger_freeze_day"):
        pass
    _, first = all_dead_letters(store)
    age(store, 25, first["id"])
    assert purge().messages == 0
    assert outbox.message(message_id)["state"] == "dead"


def test_an_archive_that_does_not_read_back_deletes_nothing(
    store: DeadLetterStore, tmp_path: Path, purge: Purge, monkeypatch: pytest.MonkeyPatch
) -> None:
    age(store, 25, record_failure(store))
    verify = module._verify

    def damaged(path: Path, count: int, digest: str) -> None:
        path.write_bytes(path.read_bytes()[:-12])
        verify(path, count, digest)

    monkeypatch.setattr(module, "_verify", damaged)
    with pytest.raises(ResourceExhausted, match="nothing was deleted"):
        purge()
    assert len(all_dead_letters(store)) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_kill_before_the_delete_loses_nothing(
    database: str, store: DeadLetterStore, tmp_path: Path, purge: Purge
) -> None:
    letter_id = record_failure(store)
    age(store, 25, letter_id)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'plugins'}:{ROOT}"}
    killed = subprocess.run([sys.executable, "-c", KILLED, database, str(tmp_path)], env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert [path.suffix for path in tmp_path.iterdir()] == [".gz"], "an archive without a manifest is not complete"
    assert [letter["id"] for letter in all_dead_letters(store)] == [letter_id]
    assert purge().letters == 1
    assert [row["id"] for row in archived(tmp_path)] == [letter_id]


def test_many_are_processed_in_batches(
    store: DeadLetterStore, tmp_path: Path, purge: Purge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH_LIMIT", 3)
    age(store, 25, *(record_failure(store, run_id=f"r{number}") for number in range(7)))
    report = purge()
    assert (report.letters, report.remaining, len(report.files)) == (7, 0, 3)
    assert len(archived(tmp_path)) == 7
