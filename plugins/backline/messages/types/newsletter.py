"""The newsletter: on the bulk lane, with one-click unsubscribe."""

from __future__ import annotations

from typing import Annotated, ClassVar, Self

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from backline.messages.base import PayloadPart
from backline.messages.fields import SQL_RULES, HttpsUrl, Line, Name, Paragraph, WebUrl, in_sql, matching, needs
from backline.messages.registry import register
from backline.messages.templated import TemplatedMessage
from backline.validation_errors import field_error

check_ascii = matching("[!-~]+", "must be ASCII; write the domain as xn--..., the rest with % escapes")
HeaderUrl = Annotated[
    HttpsUrl,
    Field(max_length=900),
    AfterValidator(check_ascii),
    in_sql("^https://[A-Za-z0-9._-]+(:[0-9]{1,4})?([/?#][!-~]*)?$"),
]
"""A URL that fits into a header line: ASCII, and not too long (RFC 5322 section 2.1.1)."""


class Article(PayloadPart):
    """One article of a newsletter."""

    model_config = ConfigDict(json_schema_extra={SQL_RULES: {"image_alt": needs("image_url", "image_alt")}})

    title: Name
    text: Paragraph
    url: WebUrl | None = None
    link_label: Annotated[Line, Field(max_length=60)] | None = None
    image_url: HttpsUrl | None = None
    image_alt: Annotated[Line, Field(max_length=200)] | None = None

    @model_validator(mode="after")
    def _image_is_described(self) -> Self:
        if self.image_url is not None and self.image_alt is None:
            raise field_error("image_alt", "is required with image_url: readers who do not see the image need it")
        return self


@register("newsletter", email="email.bulk")
class Newsletter(TemplatedMessage):
    """News to a subscriber, with one-click unsubscribe (RFC 8058)."""

    topic_name: ClassVar[str | None] = "newsletter"
    example: ClassVar = {
        "subject": "What is new in March", "preheader": "Cups in blue, and a recipe.",
        "heading": "What is new in March", "intro": "Spring is here, and so is the new glaze.",
        "articles": [
            {
                "title": "Cups in blue", "url": "https://shop.example/cups/blue", "link_label": "See the cups",
                "text": "You asked for them, and here they are: our espresso cups in a deep blue.",
            },
            {"title": "A recipe", "text": "Cold brew takes ten hours and no skill.\n\nGrind coarsely, and be patient."},
        ],
        "unsubscribe_url": "https://shop.example/unsubscribe/q7J2made-up",
    }  # fmt: skip

    subject: Line = Field(description="One line.")
    heading: Name = Field(description="On top of it.")
    articles: tuple[Article, ...] = Field(
        min_length=1,
        max_length=30,
        description="Each with `title` and `text`; `url` with `link_label`, `image_url` with `image_alt` are optional.",
        examples=[[{"title": "Cups in blue", "text": "Here they are."}]],
    )
    preheader: Line | None = Field(None, description="What inboxes show beside the subject.")
    intro: Paragraph | None = Field(None, description="Before the articles; a blank line separates paragraphs.")
    unsubscribe_url: HeaderUrl | None = Field(
        None,
        description="A page of your own where this subscriber unsubscribes; must accept a POST. Backline's own when omitted.",
    )

    @property
    def own_unsubscribe_url(self) -> str | None:
        """The app's own page."""
        return self.unsubscribe_url

    def with_unsubscribe_url(self, url: str) -> Self:
        """With the link in the text."""
        return self.model_copy(update={"unsubscribe_url": url})
