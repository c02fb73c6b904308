"""Checks of a template: each returns a list of problems, empty for a template that may ship."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from jinja2 import TemplateError

from backline.errors import BacklineError
from backline.messages import registry
from backline.messages.base import MessageType
from backline.messages.templated import TemplatedMessage
from backline.rendering.settings import TemplateSettings
from backline.rendering.templates import EmailTemplate, compile_email, create_environment
from backline.settings import settings
from testkit import message_docs

MARKUP = "<i>&\"'"
TYPES_BY_TEMPLATE: dict[str, type[TemplatedMessage]] = {
    kind.template_name: kind
    for kind in registry.all_types()
    if kind.template_name and issubclass(kind, TemplatedMessage)
}
Rendered = tuple[str, str, str]


class TagCollector(HTMLParser):
    """Tracks open tags, and stores every tag's attributes."""

    VOID = frozenset({"meta", "br", "img", "hr", "link"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.mismatched: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.mismatched.append(tag)


def sample_context(name: str, language: str) -> dict[str, Any]:
    """A template's sample context: that of its message type, or else its sample.json."""
    if name not in TYPES_BY_TEMPLATE:
        return message_docs.sample_context("email", name)
    return context(TYPES_BY_TEMPLATE[name], {**TYPES_BY_TEMPLATE[name].sample(), "language": language})


def context(kind: type[TemplatedMessage], payload: Mapping[str, Any]) -> dict[str, Any]:
    message = kind.parse(payload)
    if kind.topic_name is not None:  # it is never sent without an unsubscribe link
        message = message.with_unsubscribe_url(message.own_unsubscribe_url or "https://shop.example/unsubscribe/t")
    return message.template_and_context()[1]


def load(folder: Path, name: str, language: str) -> EmailTemplate:
    return compile_email(create_environment(folder), name, language, language)


def check_template(template: EmailTemplate, values: Mapping[str, Any]) -> list[str]:
    """Render once, and check everything that every email must have."""
    try:
        subject, text, html = template.render(values)
    except (BacklineError, TemplateError) as exc:
        return [f"{type(exc).__name__}: {exc}"]
    return [*_check_text(subject, text, html), *_check_html(html, template.language)]


def _check_text(subject: str, text: str, html: str) -> Iterator[str]:
    if not subject or "\n" in subject:
        yield f"the subject is no line: {subject!r}"
    if not text.partition("\n-- \n")[0].strip():
        yield "no text part"
    if match := re.search(r"\n{3,}|[{}]{2}|jinja\d|\bNone\b", text):
        yield f"the text part holds {match[0]!r}"
    if "jinja" in html or ">None<" in html:
        yield "the HTML part holds jinja's marks, or None"
    # The newsletter's footer is of its own.
    wanted = (settings().section(TemplateSettings).product_name, settings().section(TemplateSettings).support_email)
    yield from (f"{said} is missing" for said in wanted if said not in text or said not in html)


def _check_html(html: str, language: str) -> Iterator[str]:
    tags = TagCollector()
    tags.feed(html)
    if tags.open or tags.mismatched:
        yield f"tags do not match: {tags.open} {tags.mismatched}"
    if f'<html lang="{language}"' not in html:
        yield f"the document's language is not {language}"
    if not re.search(r'<div class="preheader"[^>]*>[^<\s]', html):
        yield "no preheader"
    for tag, attributes in tags.seen:
        if (
            tag == "table"
            and attributes.get("role") != "presentation"
            and attributes.get("class") not in {"facts", "lines"}
        ):
            yield "a table is read out as data"
        if tag in {"body", "td", "th", "p", "h1", "h2", "a", "img"} and not attributes.get("style"):
            yield f"<{tag} class={attributes.get('class')}> has no style"
        if tag == "a" and not str(attributes["href"]).startswith(("http://", "https://", "mailto:")):
            yield f"a link to {attributes['href']}"
        if tag == "img" and not attributes.get("alt"):
            yield "an image without alt"
    if len(html.encode()) > 30_000:
        yield "over 30 kB; Gmail cuts at 102 kB"


def check_type(template: EmailTemplate, kind: type[TemplatedMessage]) -> list[str]:
    """As `check_template`, for other payloads than the sample: every choice, no optional fields, markup in every text."""
    found = []
    for said, payload in _payload_variants(kind):
        found += [f"{said}: {problem}" for problem in check_template(template, context(kind, payload))]
    if found:
        return found
    for place, payload in _payloads_with_markup(kind):
        if MARKUP[:4] in template.render(context(kind, payload))[2]:
            found.append(f"{place} comes out unescaped")
    return found


def _payload_variants(kind: type[MessageType]) -> Iterator[tuple[str, dict[str, Any]]]:
    sample = kind.sample()
    for name, field in kind.model_fields.items():
        if get_origin(field.annotation) is Literal:
            yield from ((f"{name}={choice}", {**sample, name: choice}) for choice in get_args(field.annotation))
        if not field.is_required() and name in sample:
            bare = {key: value for key, value in sample.items() if key != name}
            try:
                kind.parse(bare)
            except BacklineError:  # needed by another field
                continue
            yield f"without {name}", bare


def _payloads_with_markup(kind: type[MessageType]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The sample once for each free text in it, with markup there."""
    for path in _texts(kind.sample(), ()):
        payload = _replaced(kind.sample(), path)
        try:
            kind.parse(payload)
        except BacklineError:  # a choice, a URL, a day: it cannot hold markup
            continue
        yield ".".join(map(str, path)), payload


def _texts(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, str):
        yield path
    elif isinstance(value, Mapping | list | tuple):
        for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from _texts(item, (*path, key))


def _replaced(value: Any, path: tuple[Any, ...]) -> Any:
    if not path:
        return f"{value} {MARKUP}"
    if isinstance(value, Mapping):
        return {key: _replaced(item, path[1:]) if key == path[0] else item for key, item in value.items()}
    return [_replaced(item, path[1:]) if number == path[0] else item for number, item in enumerate(value)]


def untranslated(template: EmailTemplate, english: EmailTemplate) -> list[str]:
    """Lines that are the same in this language as in English, apart from the payload's texts."""
    values = sample_context(template.name, template.language)
    constants = settings().section(TemplateSettings)
    given = {constants.product_url, constants.product_name, constants.support_email}
    given |= {line for leaf in _leaves(values) for line in str(leaf).splitlines()}
    said = sorted(given, key=len, reverse=True)  # as one may be part of another
    same = set(_lines(english.render(values)))
    return [line for line in _lines(template.render(values)) if line in same and _has_untranslated_words(line, said)]


def _has_untranslated_words(line: str, given: list[str]) -> bool:
    for text in given:
        line = re.sub(re.escape(" ".join(text.split())), "", line, flags=re.IGNORECASE) if text.strip() else line
    return re.search(r"[^\W\d_]{3}", line) is not None


def _lines(parts: Rendered) -> Iterator[str]:
    """The visible text, line by line and piece by piece."""
    _, text, html = parts
    body = re.sub(r"<(style|!--).*?(</style>|-->)", "", html, flags=re.DOTALL)
    for line in [*text.splitlines(), *re.split(r"<[^>]*>", body)]:
        yield " ".join(unescape(line).split())


def _leaves(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield key
            yield from _leaves(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _leaves(item)
    elif hasattr(value, "model_dump"):
        yield from _leaves(value.model_dump())
    else:
        yield value
