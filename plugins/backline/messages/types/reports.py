"""Reports: ready to read, or waiting for approval."""

from __future__ import annotations

from typing import Any, ClassVar, Self

from pydantic import ConfigDict, Field, model_validator

from backline.channels.base import EmailContent
from backline.messages.attachments import AttachmentField, read_attachment
from backline.messages.fields import SQL_RULES, Day, Name, Paragraph, Timestamp, WebUrl, one_of
from backline.messages.registry import register
from backline.messages.templated import DatedMessage
from backline.validation_errors import field_error

REPORT = Field(description="Its title.")


@register("report_ready", email="email.normal")
class ReportReady(DatedMessage):
    """Delivers a report: as a link, or as a file if it is small."""

    model_config = ConfigDict(json_schema_extra={SQL_RULES: {"report_url": one_of("report_url", "file")}})
    example: ClassVar = {
        "name": "Ann", "report": "Sales in February 2026", "made_at": "2026-03-01T06:00:00Z",
        "report_url": "https://shop.example/reports/2026-02", "available_until": "2026-04-01",
        "zone": "Europe/Berlin",
    }  # fmt: skip

    report: Name = REPORT
    made_at: Timestamp = Field(description="When it was created.")
    report_url: WebUrl | None = Field(None, description="Where to read it; give it, or the file, or both.")
    file: AttachmentField | None = Field(
        None,
        description="The report: by `path` under the allowed folder, or by `filename` with `content_base64`.",
        examples=[{"path": "samples/report.csv"}],
    )
    available_until: Day | None = Field(None, description="The last day that the link works.")

    @model_validator(mode="after")
    def _is_somewhere(self) -> Self:
        if self.report_url is None and self.file is None:
            raise field_error("report_url", "is required when there is no file; give report_url, file or both")
        return self

    def email(self) -> EmailContent:
        """The rendered email with the file, if there is one."""
        content = super().email()
        return content._replace(attachments=(read_attachment(self.file, "file"),)) if self.file else content

    def template_and_context(self) -> tuple[str, dict[str, Any]]:
        """With only the file's name."""
        name, context = super().template_and_context()
        return name, {**context, "file": self.file and self.file.display_name}


@register("report_approval_request", email="email.normal")
class ReportApprovalRequest(DatedMessage):
    """Asks an approver to review a report."""

    example: ClassVar = {
        "name": "Ann", "report": "Sales in February 2026", "requester": "Bob", "requested_at": "2026-03-01T09:15:00Z",
        "decide_by": "2026-03-03T16:00:00Z", "note": "The board meets on Wednesday.",
        "review_url": "https://shop.example/reports/2026-02/review", "zone": "Europe/Berlin",
    }  # fmt: skip

    report: Name = REPORT
    requester: Name = Field(description="Who asks.")
    requested_at: Timestamp = Field(description="When.")
    review_url: WebUrl = Field(description="Where to review it.")
    decide_by: Timestamp | None = Field(None, description="After this the report counts as not approved.")
    note: Paragraph | None = Field(None, description="The requester's comment.")


class ReportDecision(DatedMessage):
    """What the two decisions about a report have in common."""

    report: Name = REPORT
    approver: Name = Field(description="Who decided.")
    decided_at: Timestamp = Field(description="When.")


@register("report_approved", email="email.normal")
class ReportApproved(ReportDecision):
    """Notifies the requester that a report was approved."""

    example: ClassVar = {
        "name": "Bob", "report": "Sales in February 2026", "approver": "Ann", "decided_at": "2026-03-02T10:40:00Z",
        "comment": "Good work. Please keep the chart by region.",
        "report_url": "https://shop.example/reports/2026-02", "zone": "Europe/Berlin",
    }  # fmt: skip

    comment: Paragraph | None = Field(None, description="The approver's comment.")
    report_url: WebUrl | None = Field(None, description="Where to read it.")


@register("report_rejected", email="email.normal")
class ReportRejected(ReportDecision):
    """Notifies the requester that a report was not approved, and why."""

    example: ClassVar = {
        "name": "Bob", "report": "Sales in February 2026", "approver": "Ann", "decided_at": "2026-03-02T10:40:00Z",
        "reason": "Returns are missing for the last week. Please add them and ask again.",
        "report_url": "https://shop.example/reports/2026-02", "zone": "Europe/Berlin",
    }  # fmt: skip

    reason: Paragraph = Field(description="Why not, and what would help.")
    report_url: WebUrl | None = Field(None, description="Where to edit it.")
