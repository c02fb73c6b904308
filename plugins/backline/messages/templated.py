"""Emails and text messages rendered from a template."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from backline.channels.base import EmailContent
from backline.errors import InvalidInput
from backline.messages.base import EmailMessage, MessageType, SmsMessage
from backline.messages.fields import Language, Name, TimeZone
from backline.rendering import catalog


def template_validator(channel: str) -> Callable[[str], str]:
    """A validator for the name of a channel's template; it raises ValueError with the known names."""

    def check(name: str) -> str:
        try:
            catalog.require_template(channel, name)
        except InvalidInput as exc:
            raise ValueError(exc.problem) from None
        return name

    return check


TemplateName = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(template_validator("email"))]
SmsTemplateName = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(template_validator("sms"))]


class FromTemplate(MessageType):
    """A message rendered from a template, in the payload's language."""

    language: Language | None = Field(
        None,
        description="As in `en` or `pt-BR`; the default one when omitted, or when the template does not have it.",
        examples=["en"],
    )

    @classmethod
    def declare(cls, name: str, lanes: Mapping[str, str]) -> None:
        """A type's template has its name, unless the payload names the template."""
        super().declare(name, lanes)
        if taken := (catalog.CONSTANTS - {"language"}) & set(cls.model_fields):
            raise ValueError(f"{name}: field {min(taken)!r} is a name that every template has; give it another name")
        if "template" not in cls.model_fields:
            cls.template_name = name

    def template_and_context(self) -> tuple[str, dict[str, Any]]:
        """The template's name and variables: by default `template_name` and the payload's fields."""
        if self.template_name is None:
            raise NotImplementedError(f"{type(self).__name__} must set template_name")
        context = self.__dict__.copy()
        del context["language"]
        return self.template_name, context


class TemplatedMessage(FromTemplate, EmailMessage):
    """An email whose subject, text and HTML come from a template."""

    def rendered(self) -> tuple[str, str, str]:
        """Subject, text and HTML; InvalidInput names a missing variable."""
        # Imported here: who needs only the model must not load jinja2 and the inliner.
        from backline.rendering.templates import render_email

        name, context = self.template_and_context()
        return render_email(name, self.language, context)

    def email(self) -> EmailContent:
        """The rendered email."""
        return EmailContent(*self.rendered())


class TemplatedSms(FromTemplate, SmsMessage):
    """A text message that comes from a template."""

    def sms(self) -> str:
        """The rendered text; InvalidInput names a missing variable."""
        from backline.rendering.templates import render_sms

        name, context = self.template_and_context()
        return render_sms(name, self.language, context)


class PersonalMessage(TemplatedMessage):
    """An email that addresses a person by name."""

    name: Name = Field(description="How to address the person.")


class DatedMessage(PersonalMessage):
    """An email with times, in the person's time zone."""

    zone: TimeZone | None = Field(
        None, description="Of the times in it, as in `Europe/Berlin`; the setting `templates.time_zone` when omitted."
    )
