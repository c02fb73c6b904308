"""Email attachments: named and checked in the payload, read when the email is rendered."""

from __future__ import annotations

import binascii
import mimetypes
import os
import stat
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Annotated, Self

from pydantic import AfterValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from backline.channels.base import MAX_FILENAME_LENGTH, Attachment
from backline.channels.email.settings import EmailSettings
from backline.errors import InvalidInput
from backline.files import exists
from backline.messages.base import PayloadPart
from backline.messages.fields import LINE_PATTERN, SQL_MAX_LENGTH, SQL_RULES, Line, in_sql, needs, only_one_of
from backline.settings import ROOT, settings
from backline.validation_errors import field_error

MIB = 1024 * 1024
MAX_ATTACHMENTS = 20
OFFICE = "application/vnd.openxmlformats-officedocument"

EXTRA_MEDIA_TYPES = {
    ".xlsx": f"{OFFICE}.spreadsheetml.sheet",
    ".docx": f"{OFFICE}.wordprocessingml.document",
    ".webp": "image/webp",
    ".ics": "text/calendar",
    ".md": "text/markdown",
}
"""File extensions that the standard library does not know in every Python release."""

ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")
MAGIC_BYTES: dict[str, tuple[bytes, ...]] = {
    "application/pdf": (b"%PDF-",),
    "image/png": (b"\x89PNG\r\n\x1a\n",),
    "image/jpeg": (b"\xff\xd8\xff",),
    "application/zip": ZIP_MAGIC,
    f"{OFFICE}.spreadsheetml.sheet": ZIP_MAGIC,
    f"{OFFICE}.wordprocessingml.document": ZIP_MAGIC,
}
"""The first bytes of files of these types, to detect renamed files."""
NOT_TEXT = (b"\x7fELF", *(magic for several in MAGIC_BYTES.values() for magic in several))
CHECKED_BYTES = 64


_NOT_A_NAME = "^(?!(.*/)?[.]{1,2}(/|$))"
RelativePath = Annotated[
    Line, in_sql(MAX_FILENAME_LENGTH, SQL_MAX_LENGTH), in_sql(rf"{_NOT_A_NAME}(?!/|.*[:\\]){LINE_PATTERN}")
]
Filename = Annotated[
    Line, in_sql(MAX_FILENAME_LENGTH, SQL_MAX_LENGTH), in_sql(rf"{_NOT_A_NAME}(?!.*[/\\]){LINE_PATTERN}")
]


class AttachmentField(PayloadPart):
    """One file: `path` under the allowed folder, or `filename` with `content_base64`."""

    model_config = ConfigDict(
        json_schema_extra={
            SQL_RULES: {
                "path": only_one_of("path", "content_base64"),
                "filename": needs("content_base64", "filename"),
            }
        }
    )

    path: Annotated[RelativePath | None, Field(description="Relative to the attachment folder.")] = None
    filename: Annotated[Filename | None, Field(description="The name that the recipient sees.")] = None
    content_base64: Annotated[str | None, Field(description="The file itself, base64 (RFC 4648).")] = None
    content_type: Annotated[
        Line | None, Field(description="As in application/pdf; by default from the name's extension.")
    ] = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.path is None) == (self.content_base64 is None):
            raise field_error("path", "give either path, or filename with content_base64")
        if self.content_base64 is not None and self.filename is None:
            raise field_error("filename", "is required with content_base64; add it")
        file = _resolve_path(self.path) if self.path is not None else None
        if self.filename is not None and (
            "/" in self.filename or "\\" in self.filename or self.filename in {".", ".."}
        ):
            raise field_error("filename", "must be a file's name without folders")
        if len(self.display_name) > MAX_FILENAME_LENGTH:
            named = "path" if self.filename is None else "filename"
            raise field_error(named, f"the file's name has more than {MAX_FILENAME_LENGTH} characters; shorten it")
        _check_type(self)
        if file is None:
            _check_content(self, _decode(self))
        elif exists(file):
            # A file that is missing here may exist where the message is sent, and is checked there.
            _check_content(self, _read(file, size=CHECKED_BYTES))
        return self

    @property
    def display_name(self) -> str:
        """The file's name as the recipient sees it."""
        return self.filename or PurePosixPath(self.path or "").name

    @property
    def media_type(self) -> str:
        """The file's type: as given, or by its name's extension."""
        guessed, encoding = _media_types().guess_type(self.display_name)
        return (self.content_type or (None if encoding else guessed) or "application/octet-stream").lower()

    @property
    def size(self) -> int:
        """Its size in bytes, or 0 when the file is not on this machine."""
        if self.path is None:
            return len(_decode(self))
        file = _resolve_path(self.path)
        return file.stat().st_size if exists(file) and file.is_file() else 0


def check_total_size(fields: tuple[AttachmentField, ...]) -> tuple[AttachmentField, ...]:
    """Check the total size of a message's attachments against `email.attachment_max_mib`."""
    limit = settings().section(EmailSettings).attachment_max_mib
    if (total := sum(field.size for field in fields)) > limit * MIB:
        raise ValueError(f"have {total / MIB:.1f} MiB together; at most {limit:g} (email.attachment_max_mib)")
    return fields


def check_pdf(field: AttachmentField) -> AttachmentField:
    """An attachment that is a PDF."""
    if field.media_type != "application/pdf":
        raise field_error(
            "content_type" if field.content_type else "path" if field.path else "filename", "must be a PDF"
        )
    return field


PdfAttachment = Annotated[AttachmentField, AfterValidator(check_pdf)]
Attachments = Annotated[
    tuple[AttachmentField, ...], Field(max_length=MAX_ATTACHMENTS), AfterValidator(check_total_size)
]


def read_attachments(fields: Sequence[AttachmentField]) -> tuple[Attachment, ...]:
    """The files with their content; InvalidInput names a file that cannot be sent."""
    # The channel checks their total.
    return tuple(read_attachment(field, f"attachments[{number}]") for number, field in enumerate(fields))


def read_attachment(field: AttachmentField, name: str) -> Attachment:
    """One file with its content; InvalidInput if it cannot be sent. `name` is its payload field."""
    limit = settings().section(EmailSettings).attachment_max_mib
    file = _load(field, name)
    if len(file.content) > limit * MIB:
        raise InvalidInput(name, f"has more than {limit:g} MiB (email.attachment_max_mib)")
    return file


@lru_cache(maxsize=1)
def _media_types() -> mimetypes.MimeTypes:
    # Not the host's /etc/mime.types, so that a file's type is the same on every host.
    names = mimetypes.MimeTypes()
    for ending, media_type in EXTRA_MEDIA_TYPES.items():
        names.add_type(media_type, ending)
    return names


def _load(field: AttachmentField, name: str) -> Attachment:
    limit = int(settings().section(EmailSettings).attachment_max_mib * MIB)
    try:
        content = _decode(field) if field.path is None else _read(_resolve_path(field.path), size=limit + 1)
        _check_content(field, content)
    except PydanticCustomError as exc:
        context = exc.context or {}
        raise InvalidInput(f"{name}.{context['field']}", context["problem"]) from None
    return Attachment(field.display_name, field.media_type, content)


def _resolve_path(path: str) -> Path:
    folder = (ROOT / settings().section(EmailSettings).attachment_folder).resolve()
    windows = PureWindowsPath(path)
    # resolve() follows links, so a link out of the folder is refused.
    try:
        target = (folder / path).resolve()
    except (OSError, RuntimeError, ValueError):  # links in a circle, a NUL
        raise field_error("path", "cannot be followed to a file; fix the path or its links") from None
    if ".." in windows.parts or windows.anchor or not target.is_relative_to(folder) or target == folder:
        raise field_error(
            "path",
            f"must be a relative path of a file inside {settings().section(EmailSettings).attachment_folder} "
            "(email.attachment_folder), without '..' and not through a link out of it",
        )
    return target


def _read(file: Path, *, size: int) -> bytes:
    try:
        # Without waiting: the other end of a FIFO may never come.
        with os.fdopen(os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as opened:
            if stat.S_ISREG(os.fstat(opened.fileno()).st_mode):
                return opened.read(size)
        raise field_error("path", "is not a regular file; give one")
    except FileNotFoundError:
        folder = settings().section(EmailSettings).attachment_folder
        raise field_error("path", f"no such file in {folder}; put it there or fix the path") from None
    except OSError as exc:
        raise field_error("path", f"cannot be read: {exc.strerror or exc}") from None


def _decode(field: AttachmentField) -> bytes:
    limit = settings().section(EmailSettings).attachment_max_mib
    text = (field.content_base64 or "").replace("\r", "").replace("\n", "")
    if len(text) * 3 // 4 > (limit * MIB) + 2:
        raise field_error("content_base64", f"is over {limit:g} MiB (email.attachment_max_mib)")
    try:
        return binascii.a2b_base64(text.encode("ascii"), strict_mode=True)
    except (binascii.Error, UnicodeEncodeError):
        raise field_error("content_base64", "is not base64 (RFC 4648, the alphabet with + and /)") from None


def _check_type(field: AttachmentField) -> None:
    allowed = settings().section(EmailSettings).attachment_types
    if field.media_type not in allowed:
        named = "content_type" if field.content_type else "path" if field.path and not field.filename else "filename"
        raise field_error(
            named,
            f"type {field.media_type} is not allowed; allowed (email.attachment_types): {', '.join(sorted(allowed))}",
        )


def _check_content(field: AttachmentField, content: bytes) -> None:
    begins = MAGIC_BYTES.get(field.media_type)
    is_wrong = not content.startswith(begins) if begins else False
    if field.media_type.startswith("text/"):
        is_wrong = b"\0" in content[:CHECKED_BYTES] or content.startswith(NOT_TEXT)
    if is_wrong:
        where = "content_base64" if field.path is None else "path"
        raise field_error(where, f"does not begin as {field.media_type} files do; set the file's actual type")
