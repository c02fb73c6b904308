"""The Maildir and its index."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from sandbox.mail.faults import MailFaultRule, MailFaults
from sandbox.mail.mailbox import Mailbox


@pytest.fixture
def mailbox(tmp_path: Path) -> Mailbox:
    return Mailbox(tmp_path)


def test_ids_grow_and_files_sort_in_order_of_arrival(mailbox: Mailbox) -> None:
    entries = [mailbox.store("a@b.example", (f"{number}@b.example",), b"") for number in range(2000)]
    assert [entry.id for entry in entries] == sorted({entry.id for entry in entries})
    assert sorted(entry.file for entry in entries) == [entry.file for entry in entries]


def test_index_is_the_same_after_reading_the_folder_again(mailbox: Mailbox) -> None:
    forged = (
        b"X-Envelope-To: forged@b.example\r\nSubject: =?utf-8?q?caf=C3=A9?=\r\n folded\r\nMessage-ID: <1@x>\r\n\r\nbody"
    )
    stored = mailbox.store("ä@b.example", ("ö@b.example", "b@b.example"), forged)
    assert (stored.subject, stored.message_id) == ("café folded", "<1@x>")
    [found] = Mailbox(mailbox.folder).find()
    assert found == stored


def test_mail_written_by_another_program_is_indexed(mailbox: Mailbox) -> None:
    (mailbox.folder / "cur" / "other:2,S").write_bytes(b"Subject: by hand\n\nbody")
    [found] = Mailbox(mailbox.folder).find()
    assert (found.subject, found.recipients) == ("by hand", ())


def test_message_is_found_after_a_mail_reader_moved_it(mailbox: Mailbox) -> None:
    entry = mailbox.store("a@b.example", ("b@b.example",), b"body")
    path = mailbox.folder / entry.file
    path.rename(mailbox.folder / "cur" / f"{path.name}:2,S")
    assert mailbox.read(entry).endswith(b"body")


def test_removed_folder_is_made_again(mailbox: Mailbox) -> None:
    shutil.rmtree(mailbox.folder)
    entry = mailbox.store("a@b.example", ("b@b.example",), b"body")
    assert mailbox.read(entry).endswith(b"body")


def test_clearing_leaves_what_arrives_meanwhile(mailbox: Mailbox) -> None:
    mailbox.store("a@b.example", ("old@b.example",), b"")
    files = mailbox.clear()
    kept = mailbox.store("a@b.example", ("new@b.example",), b"")
    mailbox.remove(files)
    assert list(Mailbox(mailbox.folder).find()) == [kept]


def test_seeded_probability_fires_the_same_way_twice() -> None:
    def run() -> list[bool]:
        faults = MailFaults()
        faults.replace([MailFaultRule(stage="rcpt", action="reply", probability=0.3, seed=7)])
        return [faults.match("rcpt", ["a@b.example"]) is not None for _ in range(200)]

    assert run() == run()
    assert 30 < sum(run()) < 90
