"""Emails and text messages made from a template."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from backline.channels.content import EmailContent
from backline.errors import InvalidInput
from backline.messages.base import EmailMessage, MessageType, SmsMessage
from backline.messages.fields import Language, Name, TimeZone
from backline.rendering import catalog


def template_validator(channel: str) -> Callable[[str], str]:
    """A check for the name of a template of that channel; it raises ValueError, listing the known ones."""

    def check(name: str) -> str:
        try:
            catalog.require_template(channel, name)
        except InvalidInput as exc:
            raise ValueError(exc.problem) from None
        return name

    return check


TemplateName = Annotated[str, Field(min_length=1, max_length=60), AfterValidator(template_validator("email"))]
SmsTemplateName = Annotated[str, Field(min_length=1, max_length=60), AfterValidator(template_validator("sms"))]


class FromTemplate(MessageType):
    """A message whose words come from a template, in the language that is asked for."""

    language: Language | None = Field(
        None,
        title="Language",
        description="As in `en` or `pt-BR`; when left out, or when the template does not have it, the default one.",
        examples=["en"],
    )

    def template_and_context(self) -> tuple[str, dict[str, Any]]:
        """The template's name and its variables: by default `template_name` and the payload's fields."""
        if self.template_name is None:
            raise NotImplementedError(f"{type(self).__name__} must set template_name")
        context = self.__dict__.copy()
        del context["language"]
        return self.template_name, context


class TemplatedMessage(FromTemplate, EmailMessage):
    """An email whose subject, text and HTML come from a template."""

    def rendered(self) -> tuple[str, str, str]:
        """Subject, text and HTML; InvalidInput names a variable that the template misses."""
        # Late: jinja2 and the inliner are not for those who only want the model.
        from backline.rendering.templates import render_email

        name, context = self.template_and_context()
        return render_email(name, self.language, context)

    def email(self) -> EmailContent:
        """As rendered."""
        return EmailContent(*self.rendered())


class TemplatedSms(FromTemplate, SmsMessage):
    """A text message that comes from a template."""

    def sms(self) -> str:
        """As rendered; InvalidInput names a variable that the template misses."""
        from backline.rendering.templates import render_sms

        name, context = self.template_and_context()
        return render_sms(name, self.language, context)


class PersonalMessage(TemplatedMessage):
    """One that addresses a person by name."""

    name: Name = Field(title="Name", description="How to address the person.", examples=["Ann"])


class DatedMessage(PersonalMessage):
    """One that tells times, by the person's clock."""

    zone: TimeZone | None = Field(
        None,
        title="Time zone",
        description="Of the times in it, as in `Europe/Berlin`; the setting `templates.time_zone` when left out.",
        examples=["Europe/Berlin"],
    )
