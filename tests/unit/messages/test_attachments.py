from __future__ import annotations

import base64
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from backline.channels.base import Attachment, Message
from backline.errors import InvalidInput
from backline.messages import registry, render_email

PDF = b"%PDF-1.7\n..."
MIB = 1024 * 1024


def payload(*attachments: dict[str, Any]) -> dict[str, Any]:
    return {"subject": "Files", "text": "Here they are.", "attachments": list(attachments)}


def render(*attachments: dict[str, Any]) -> tuple[Attachment, ...]:
    message = Message(1, "email", "ann@example.com", payload(*attachments), datetime.now(UTC))
    return render_email(message).attachments


def error_of(*attachments: dict[str, Any]) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        registry.get("email").parse(payload(*attachments))
    return caught.value


def upload(name: str, content: bytes, **more: str) -> dict[str, Any]:
    return {"filename": name, "content_base64": base64.b64encode(content).decode(), **more}


def test_files_by_path_and_by_upload_are_read(folder: Path) -> None:
    (folder / "terms").mkdir()
    (folder / "terms" / "2026.pdf").write_bytes(PDF)
    assert render(
        {"path": "terms/2026.pdf"}, upload("list.csv", b"a;b\n"), {"path": "terms/2026.pdf", "filename": "T.pdf"}
    ) == (
        Attachment("2026.pdf", "application/pdf", PDF),
        Attachment("list.csv", "text/csv", b"a;b\n"),
        Attachment("T.pdf", "application/pdf", PDF),
    )


@pytest.mark.usefixtures("folder")
def test_base64_may_be_broken_into_lines() -> None:
    text = base64.encodebytes(b"x" * 500).decode()
    assert render({"filename": "x.txt", "content_base64": text})[0].content == b"x" * 500


@pytest.mark.parametrize("path", ["../secret.pdf", "a/../../secret.pdf", "..\\secret.pdf", "C:\\secret.pdf", "."])
def test_a_path_out_of_the_folder_is_refused(folder: Path, path: str) -> None:
    (folder.parent / "secret.pdf").write_bytes(PDF)
    error = error_of({"path": path})
    assert error.field == "attachments[0].path"
    assert "must be a relative path of a file inside" in str(error)


def test_an_absolute_path_is_refused_even_into_the_folder(folder: Path) -> None:
    (folder / "a.pdf").write_bytes(PDF)
    assert error_of({"path": str(folder / "a.pdf")}).field == "attachments[0].path"
    assert error_of({"path": "/etc/passwd"}).field == "attachments[0].path"


@pytest.mark.parametrize("linked", ["file", "folder"])
def test_a_symlink_out_of_the_folder_is_refused(folder: Path, linked: str) -> None:
    (folder.parent / "secret.pdf").write_bytes(PDF)
    (folder / "link").symlink_to(folder.parent / "secret.pdf" if linked == "file" else folder.parent)
    error = error_of({"path": "link" if linked == "file" else "link/secret.pdf", "filename": "a.pdf"})
    assert (error.field, "through a link" in str(error)) == ("attachments[0].path", True)


def test_a_link_to_itself_is_refused(folder: Path) -> None:
    (folder / "circle").symlink_to(folder / "circle")
    assert error_of({"path": "circle", "filename": "a.pdf"}).field == "attachments[0].path"


@pytest.mark.usefixtures("folder")
def test_a_missing_file_is_checked_when_it_is_sent() -> None:
    registry.get("email").parse(payload({"path": "later.pdf"}))
    with pytest.raises(InvalidInput, match="no such file in") as caught:
        render(upload("a.txt", b"x"), {"path": "later.pdf"})
    assert caught.value.field == "attachments[1].path"


def test_a_folder_is_not_a_file(folder: Path) -> None:
    (folder / "sub.txt").mkdir()
    assert error_of({"path": "sub.txt"}).field == "attachments[0].path"


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("attachment", "field", "text"),
    [
        ({}, "path", "either path, or filename with content_base64"),
        ({"path": "a.pdf", "content_base64": "YQ==", "filename": "a.pdf"}, "path", "either path, or"),
        ({"content_base64": "YQ=="}, "filename", "is required with content_base64"),
        (upload("run.exe", b"MZ"), "filename", "is not allowed; allowed (email.attachment_types): application/json"),
        (upload("x.csv.gz", b"x"), "filename", "application/octet-stream is not allowed"),
        (upload("x.txt", b"x", content_type="application/x-sh"), "content_type", "application/x-sh is not allowed"),
        (upload("fake.pdf", b"<html>"), "content_base64", "does not begin as application/pdf files do"),
        (upload("fake.png", b"GIF89a"), "content_base64", "image/png"),
        (upload("fake.jpg", b"GIF89a"), "content_base64", "image/jpeg"),
        (upload("fake.docx", b"MZ"), "content_base64", "wordprocessingml"),
        (upload("../x.txt", b"x"), "filename", "without folders"),
        ({"filename": "x.txt", "content_base64": "a*b"}, "content_base64", "is not base64"),
        ({"filename": "x.txt", "content_base64": "YQ"}, "content_base64", "is not base64"),
        (upload("x\n.txt", b"x"), "filename", "one line"),
        (upload("x.txt", b"x") | {"pth": "x"}, "pth", "is not a known field"),
    ],
)
def test_bad_attachments_name_field_and_fix(attachment: dict[str, Any], field: str, text: str) -> None:
    error = error_of(attachment)
    assert error.field == f"attachments[0].{field}"
    assert text in str(error)


def test_the_total_size_of_all_files_is_limited(folder: Path) -> None:
    (folder / "half.txt").write_bytes(b"x" * (MIB // 2))
    registry.get("email").parse(payload({"path": "half.txt"}, upload("more.txt", b"x" * (MIB // 2))))
    error = error_of({"path": "half.txt"}, upload("more.txt", b"x" * (MIB // 2 + 1)))
    assert error.field == "attachments"
    assert "at most 1 (email.attachment_max_mib)" in str(error)
    assert error_of(upload("big.txt", b"x" * (MIB + 1))).field == "attachments"
    assert error_of(upload("big.txt", b"x" * (2 * MIB))).field == "attachments[0].content_base64"


def test_a_file_that_grew_since_it_was_checked_is_not_read_whole(folder: Path) -> None:
    (folder / "log.txt").write_bytes(b"x")
    parsed: Any = registry.get("email").parse(payload({"path": "log.txt"}))
    (folder / "log.txt").write_bytes(b"x" * (3 * MIB))
    with pytest.raises(InvalidInput, match=r"attachments\[0\]: has more than 1 MiB"):
        parsed.email()


def test_a_file_whose_content_is_not_its_type_is_refused(folder: Path) -> None:
    (folder / "fake.pdf").write_bytes(b"#!/bin/sh")
    assert error_of({"path": "fake.pdf"}).field == "attachments[0].path"


@pytest.mark.usefixtures("folder")
def test_the_number_of_files_is_limited() -> None:
    error = error_of(*[upload("x.txt", b"x")] * 21)
    assert (error.field, "at most 20" in str(error)) == ("attachments", True)


def test_what_is_no_regular_file_is_refused_without_waiting(folder: Path) -> None:
    os.mkfifo(folder / "pipe.txt")
    error = error_of({"path": "pipe.txt"})
    assert (error.field, error.problem) == ("attachments[0].path", "is not a regular file; give one")


@pytest.mark.parametrize("content", [b"MZ\x90\x00\x03", b"\x7fELF\x02", b"PK\x03\x04", b"%PDF-1.7"])
def test_a_binary_file_is_no_text(folder: Path, content: bytes) -> None:
    (folder / "a.exe").write_bytes(content)
    for attached in ({"path": "a.exe", "content_type": "text/plain"}, upload("a.txt", content)):
        assert "does not begin as text/plain files do" in error_of(attached).problem
