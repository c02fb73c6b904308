"""Retention and cap: into an archive that reads back, and only then out of the table."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from backline.dead_letters import purge_dead_letters as module
from backline.dead_letters.purge_dead_letters import purge_dead_letters
from backline.dead_letters.settings import DeadLetterSettings
from backline.dead_letters.store import DeadLetterStore
from backline.errors import ResourceExhausted
from tests.integration.dead_letters.support import all_dead_letters, make_dead_message, record_failure
from tests.integration.outbox.support import Outbox, finished_outcome


def settings(**changed: Any) -> DeadLetterSettings:
    return DeadLetterSettings(**{"retention_hours": 24.0, **changed})


def age(letters: DeadLetterStore, hours: float, *ids: int) -> None:
    letters.connection.execute(
        "UPDATE backline.dead_letter SET last_seen_at = clock_timestamp() - %s * interval '1 h' WHERE id = ANY (%s)",
        [hours, list(ids)],
    )


def archived(folder: Path) -> list[dict[str, Any]]:
    rows = []
    for path in sorted(folder.glob("*.jsonl.gz")):
        text = gzip.decompress(path.read_bytes())
        manifest = json.loads(path.with_name(f"{path.name}.json").read_text())
        found = [json.loads(line) for line in text.splitlines()]
        assert manifest == {
            "file": path.name, "letters": len(found), "sha256_of_lines": hashlib.sha256(text).hexdigest(),
        }  # fmt: skip
        rows += found
    return rows


def test_what_is_too_old_goes(letters: DeadLetterStore, tmp_path: Path) -> None:
    old, young = record_failure(letters, cause="äöü"), record_failure(letters, run_id="r2")
    age(letters, 25, old)
    age(letters, 23, young)
    report = purge_dead_letters(letters, settings(), tmp_path, dry_run=False)
    assert (report.letters, report.remaining, len(report.files)) == (1, 1, 1)
    assert [letter["id"] for letter in all_dead_letters(letters)] == [young]
    [row] = archived(tmp_path)
    assert (row["id"], row["cause"], row["conf"], row["message"]) == (old, "äöü", {"days": 1}, None)
    assert Path(report.files[0]).stat().st_mode & 0o077 == 0


def test_the_oldest_over_the_cap_go(letters: DeadLetterStore, tmp_path: Path) -> None:
    made = [record_failure(letters, run_id=f"r{number}") for number in range(10)]
    report = purge_dead_letters(letters, settings(cap=4), tmp_path, dry_run=False)
    assert (report.letters, report.remaining) == (6, 4)
    assert [letter["id"] for letter in all_dead_letters(letters)] == made[:5:-1]
    assert [row["id"] for row in archived(tmp_path)] == made[:6]


def test_a_dry_run_changes_nothing(letters: DeadLetterStore, tmp_path: Path) -> None:
    age(letters, 25, record_failure(letters))
    report = purge_dead_letters(letters, settings(), tmp_path, dry_run=True)
    assert (report.dry_run, report.letters, report.remaining, report.files) == (True, 1, 0, ())
    assert len(all_dead_letters(letters)) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_dead_message_goes_with_its_letter_and_the_ledger_counts_it(
    outbox: Outbox, letters: DeadLetterStore, tmp_path: Path
) -> None:
    message_id = make_dead_message(outbox)
    [letter] = all_dead_letters(letters)
    age(letters, 25, letter["id"])
    assert purge_dead_letters(letters, settings(), tmp_path, dry_run=False).letters == 0, "its day's books are open"
    outbox.sql("UPDATE backline.message SET created_at = created_at - interval '3 days'")
    outbox.run_statement("ledger_add_closed_days")
    while outbox.run_statement("ledger_freeze_day"):
        pass
    report = purge_dead_letters(letters, settings(), tmp_path, dry_run=False)
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


def test_a_message_with_a_younger_letter_stays(outbox: Outbox, letters: DeadLetterStore, tmp_path: Path) -> None:
    message_id = make_dead_message(outbox)
    outbox.run_statement("message_retry", id=message_id)
    [message] = outbox.claim()
    outbox.complete(finished_outcome(message, "dead", error_class="network", error="again"))
    outbox.sql("UPDATE backline.message SET created_at = created_at - interval '3 days'")
    outbox.run_statement("ledger_add_closed_days")
    while outbox.run_statement("ledger_freeze_day"):
        pass
    _, first = all_dead_letters(letters)
    age(letters, 25, first["id"])
    assert purge_dead_letters(letters, settings(), tmp_path, dry_run=False).messages == 0
    assert outbox.message(message_id)["state"] == "dead"


def test_an_archive_that_does_not_read_back_deletes_nothing(
    letters: DeadLetterStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    age(letters, 25, record_failure(letters))
    verify = module._verify

    def damaged(path: Path, count: int, digest: str) -> None:
        path.write_bytes(path.read_bytes()[:-12])
        verify(path, count, digest)

    monkeypatch.setattr(module, "_verify", damaged)
    with pytest.raises(ResourceExhausted, match="nothing was deleted"):
        purge_dead_letters(letters, settings(), tmp_path, dry_run=False)
    assert len(all_dead_letters(letters)) == 1
    assert list(tmp_path.iterdir()) == []


def test_many_go_in_rounds(letters: DeadLetterStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 3)
    age(letters, 25, *(record_failure(letters, run_id=f"r{number}") for number in range(7)))
    report = purge_dead_letters(letters, settings(), tmp_path, dry_run=False)
    assert (report.letters, report.remaining, len(report.files)) == (7, 0, 3)
    assert len(archived(tmp_path)) == 7
