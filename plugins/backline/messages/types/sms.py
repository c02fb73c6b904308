"""Text messages: with any text or template, and sign-in codes."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field

from backline.messages.base import SmsMessage
from backline.messages.fields import SQL_LIMIT, TEXT_PATTERN, Variables, check_text, in_sql, matching
from backline.messages.registry import register
from backline.messages.templated import SmsTemplateName, TemplatedSms

Body = Annotated[
    str,
    Field(min_length=1, max_length=1600),
    AfterValidator(check_text),
    in_sql(TEXT_PATTERN),
    in_sql("sms", SQL_LIMIT),
]
MFA_LIFETIME = timedelta(minutes=5)


check_code = matching("-*[A-Za-z0-9][A-Za-z0-9-]*", "must be ASCII letters, digits and hyphens")


@register("sms", sms="sms.normal")
class Sms(SmsMessage):
    """A text message with any text."""

    example: ClassVar = {"body": "Your order 1042 is ready. You can pick it up until 6 pm."}

    body: Body = Field(description="Its text. The setting `sms.max_segments` limits its length.")

    def sms(self) -> str:
        """The payload's text."""
        return self.body


@register("templated_sms", sms="sms.normal")
class SmsFromTemplate(TemplatedSms):
    """A text message rendered from any template."""

    example: ClassVar = {
        "template": "notice",
        "context": {"text": "We have moved: 1 High Street.", "link": "https://shop.example/stores"},
    }  # fmt: skip

    template: SmsTemplateName = Field(description="The template's name.")
    context: Variables = Field(default_factory=dict, description="The template's variables.")

    def template_and_context(self) -> tuple[str, dict[str, Any]]:
        """Both from the payload."""
        return self.template, dict(self.context)


@register("mfa_code", sms="sms.urgent")
class MfaCode(TemplatedSms):
    """A sign-in code, on the urgent lane; it expires 5 minutes after it was accepted."""

    secret_fields: ClassVar[frozenset[str]] = frozenset({"code"})
    secret_references: ClassVar = {"code": ("mfa_code",)}
    lifetime: ClassVar[timedelta | None] = MFA_LIFETIME
    example: ClassVar = {"code": {"$ref": "mfa_code", "id": 19}}

    code: Annotated[str, Field(min_length=4, max_length=12), AfterValidator(check_code)] = Field(
        description="What the person types to sign in.", examples=["402913"]
    )
