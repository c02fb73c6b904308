"""Settings of email: section [email] of backline.toml, which explains each."""

from __future__ import annotations

from pydantic import Field

from backline.settings.base import Section, register

_OFFICE_MEDIA_TYPE = "application/vnd.openxmlformats-officedocument"
ATTACHMENT_TYPES = frozenset(
    {f"application/{name}" for name in ("pdf", "zip", "json")}
    | {f"text/{name}" for name in ("plain", "csv", "html", "calendar")}
    | {f"image/{name}" for name in ("png", "jpeg", "gif", "webp")}
    | {f"{_OFFICE_MEDIA_TYPE}.spreadsheetml.sheet", f"{_OFFICE_MEDIA_TYPE}.wordprocessingml.document"}
)


@register("email")
class EmailSettings(Section):
    """How email goes out."""

    connection: str = "smtp_default"
    from_address: str = "Backline <backline@localhost.localdomain>"
    message_id_domain: str = "backline.localdomain"
    connections: int = Field(8, ge=1, le=64)
    messages_per_connection: int = Field(2, ge=1, le=8)
    timeout_seconds: float = Field(30.0, gt=0, le=300)
    attachment_folder: str = "include/attachments"
    attachment_max_mib: float = Field(10.0, gt=0, le=50)
    attachment_types: frozenset[str] = ATTACHMENT_TYPES
