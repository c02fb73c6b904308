"""Emails with any content or template, and the welcome of a new account."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from backline.channels.base import EmailContent
from backline.messages.attachments import Attachments, read_attachments
from backline.messages.base import EmailMessage
from backline.messages.fields import (
    SQL_CHOICES,
    SQL_RULES,
    Address,
    Addresses,
    Headers,
    Line,
    LongText,
    Variables,
    WebUrl,
    in_sql,
    one_of,
)
from backline.messages.registry import register
from backline.messages.templated import PersonalMessage, TemplatedMessage, TemplateName
from backline.preferences.settings import PreferenceSettings
from backline.settings import settings
from backline.validation_errors import field_error


def check_topic(name: str) -> str:
    """A topic of the settings; ValueError lists the known ones."""
    if name not in (known := settings().section(PreferenceSettings).topics):
        raise ValueError(f"{name!r} is not a topic; known topics (preferences.topics): {', '.join(sorted(known))}")
    return name


Topic = Annotated[str, Field(min_length=1, max_length=60), AfterValidator(check_topic), in_sql("topics", SQL_CHOICES)]
TOPIC = Field(
    None,
    description="A topic of `preferences.topics`: recipients who opted out do not get it, and it has an unsubscribe link.",
    examples=["newsletter"],
)


@register("email", email="email.normal")
class Email(EmailMessage):
    """An email with any subject and body."""

    model_config = ConfigDict(json_schema_extra={SQL_RULES: {"text": one_of("text", "html")}})
    example: ClassVar = {"subject": "Your order 1042", "text": "It is on its way."}

    subject: Line = Field(description="One line.")
    text: LongText | None = Field(None, description="The plain text part; give it, or html, or both.")
    html: LongText | None = Field(None, description="The HTML part, sent as it is.")
    cc: Addresses | None = Field(None, description="Further recipients that all can see.")
    bcc: Addresses | None = Field(None, description="Further recipients that the others cannot see.")
    reply_to: Address | None = Field(None, description="Where answers go.")
    headers: Headers | None = Field(None, description="Extra headers, name to value.", examples=[{"X-Order": "1042"}])
    attachments: Attachments | None = Field(
        None,
        description="Files: by `path` under the allowed folder, or by `filename` with `content_base64`.",
        examples=[[{"path": "terms.pdf"}]],
    )
    topic: Topic | None = TOPIC

    @model_validator(mode="after")
    def _has_a_body(self) -> Self:
        if self.text is None and self.html is None:
            raise field_error("text", "is required when there is no html; give text, html or both")
        return self

    def email(self) -> EmailContent:
        """The payload with the attached files."""
        return EmailContent(
            subject=self.subject,
            text=self.text,
            html=self.html,
            cc=self.cc or (),
            bcc=self.bcc or (),
            reply_to=self.reply_to,
            headers=self.headers or {},
            attachments=read_attachments(self.attachments or ()),
        )


@register("templated_email", email="email.normal")
class TemplatedEmail(TemplatedMessage):
    """An email rendered from any template."""

    example: ClassVar = {
        "template": "notice",
        "context": {"heading": "We have moved", "paragraphs": ["Our new address is 1 High Street."]},
    }  # fmt: skip

    template: TemplateName = Field(description="The template's name.", examples=["notice"])
    context: Variables = Field(default_factory=dict, description="The template's variables.")
    cc: Addresses | None = Field(None, description="Further recipients that all can see.")
    reply_to: Address | None = Field(None, description="Where answers go.")
    topic: Topic | None = TOPIC

    def with_unsubscribe_url(self, url: str) -> Self:
        """With the link as the variable `unsubscribe_url`, unless the context has its own."""
        return self.model_copy(update={"context": {"unsubscribe_url": url, **self.context}})

    def template_and_context(self) -> tuple[str, dict[str, Any]]:
        """Both from the payload."""
        return self.template, dict(self.context)

    def email(self) -> EmailContent:
        """The rendered email, with cc and reply_to."""
        return EmailContent(*self.rendered(), cc=self.cc or (), reply_to=self.reply_to)


@register("urgent_email", email="email.urgent")
class UrgentEmail(TemplatedEmail):
    """A templated_email on the urgent lane, so that it does not wait behind bulk mail."""

    example: ClassVar = {"context": {"title": "Disk almost full on db-1", "summary": "Only 4 % is left."}}

    template: TemplateName = Field("system_alert", description="The template's name.", examples=["system_alert"])


@register("welcome", email="email.normal")
class Welcome(PersonalMessage):
    """Welcomes a new account."""

    example: ClassVar = {"name": "Ann", "login_url": "https://shop.example/login"}

    login_url: WebUrl | None = Field(None, description="Where the button leads; the product's own page when omitted.")
