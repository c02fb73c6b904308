"""The command `preview`: a rendered message, without sending anything."""

from __future__ import annotations

import tempfile
import time
import webbrowser
from pathlib import Path
from typing import Annotated, Any

import typer

from backline.channels.base import EmailContent
from backline.channels.email import mime
from backline.channels.email.settings import EmailSettings
from backline.channels.recipients import parse_address
from backline.channels.sms import segments
from backline.cli.console import AsJson, app, err, out, print_json, visible
from backline.cli.payload import Fields, Payload, TypeName, parse_payload
from backline.errors import InvalidInput
from backline.messages import registry, with_unsubscribe
from backline.messages.base import EmailMessage, MessageType, PushMessage, SmsMessage, WebhookMessage
from backline.messages.secrets import plaintext
from backline.preferences.unsubscribe import link_for_token
from backline.settings import settings

GMAIL_CLIP_BYTES = 102 * 1024
"""Gmail shows only the beginning of an HTML part with more bytes."""


@app.command()
def preview(
    type_name: TypeName,
    language: Annotated[str | None, typer.Option(help="Such as de or pt-BR.")] = None,
    payload: Payload = None,
    fields: Fields = None,
    version: Annotated[
        int | None, typer.Option("--payload-version", min=1, help="The payload's type version, if it is an older one.")
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write the HTML part to this file.")
    ] = None,
    text: Annotated[bool, typer.Option("--text", help="Print only the text part.")] = False,
    show: Annotated[bool, typer.Option("--open", help="Open the HTML part in a browser.")] = False,
    as_json: AsJson = False,
) -> None:
    """Render a message of a type: its sample, or your payload. Nothing is sent; secrets are fake."""
    kind = registry.get(type_name)
    filled = _build_payload(kind, payload, fields or [], language)
    if version is not None:
        filled = dict(kind.to_current(filled, version))
    message = kind.parse(filled)
    if not isinstance(message, EmailMessage):
        if html is not None or show:
            raise InvalidInput(
                "--html" if html else "--open", f"{type_name} does not go by email, so it has no HTML part"
            )
        _print_short(message, text_only=text, as_json=as_json)
        return
    has_topic = message.topic_of(filled) is not None
    content = with_unsubscribe(message, lambda: link_for_token("preview")) if has_topic else message.email()
    details = _details(message, content)
    if html is not None:
        _write_html(html, content)
    if show:
        prefix = f"{type_name}-"
        with tempfile.NamedTemporaryFile("w", suffix=".html", prefix=prefix, delete=False, encoding="utf-8") as file:
            file.write(_require_html(content))
        err.print(f"backline: {file.name}", markup=False)
        webbrowser.open(Path(file.name).as_uri())
    if as_json:
        print_json(details)
    elif text:
        typer.echo(visible(details["text"]), nl=False)
    else:
        _print(details)
        if isinstance(message, SmsMessage):
            out.print("\nBy SMS:", markup=False)
            _print_short(message, text_only=False, as_json=False)


def _build_payload(
    kind: type[MessageType], payload: str | None, fields: list[str], language: str | None
) -> dict[str, Any]:
    found = parse_payload(kind, payload, fields)
    if payload is None:
        found = kind.sample() | found
    if language is not None:
        if "language" not in kind.model_fields:
            raise InvalidInput("--language", f"{kind.type_name} has no language: its text is its payload")
        found["language"] = language
    # Secrets are neither decrypted nor resolved.
    return dict(plaintext(kind, found, kind.fake_secret))


def _require_html(content: EmailContent) -> str:
    if content.html is None:
        raise InvalidInput("--html", "this message has no HTML part")
    return content.html


def _write_html(file: Path, content: EmailContent) -> None:
    try:
        file.write_text(_require_html(content), encoding="utf-8")
    except OSError as exc:
        raise InvalidInput("--html", f"cannot write {str(file)!r}: {exc.strerror or exc}") from None


def _details(message: EmailMessage, content: EmailContent) -> dict[str, Any]:
    body = mime.normalize_newlines(content.text if content.text is not None else mime.html_to_text(content.html or ""))
    config = settings().section(EmailSettings)
    data = mime.build_message(
        content,
        sender=mime.address_header("From", (parse_address(config.from_address, "email.from_address"),)),
        to=parse_address("ann@example.com", "to"),
        message_id=f"<preview@{config.message_id_domain}>",
        date=int(time.time()),
    )
    return {
        "type": message.type_name,
        "subject": content.subject,
        "headers": dict(content.headers),
        "text": body,
        "html": content.html,
        "attachments": [
            {"filename": file.filename, "content_type": file.content_type, "bytes": len(file.content)}
            for file in content.attachments
        ],
        "bytes": {"text": len(body.encode()), "html": len((content.html or "").encode()), "message": len(data)},
        **({"sms": _sms_details(message.sms())} if isinstance(message, SmsMessage) else {}),
    }


def _sms_details(body: str) -> dict[str, Any]:
    counted = segments.count_segments(body)
    return {"text": body, "encoding": counted.encoding, "characters": len(body), "segments": counted.parts}


def _print_short(message: MessageType, *, text_only: bool, as_json: bool) -> None:
    if isinstance(message, SmsMessage):
        found = _sms_details(message.sms())
        size = f"Size: {found['segments']} x SMS in {found['encoding']}, {found['characters']} characters"
    elif isinstance(message, PushMessage):
        pushed = message.push()
        found = {"text": pushed.body, **pushed._asdict(), "data": dict(pushed.data)}
        size = f"Title: {pushed.title}"
    elif isinstance(message, WebhookMessage):
        raise InvalidInput("type", f"{message.type_name} is not rendered, so there is nothing to show")
    else:
        found = {"text": str(getattr(message, message.channels[0])())}
        size = f"By {message.channels[0]}:"
    if as_json:
        print_json({"type": message.type_name, **found})
    elif text_only:
        typer.echo(visible(found["text"]))
    else:
        out.print(f"{size}\n\n{found['text']}", markup=False)


def _print(details: dict[str, Any]) -> None:
    size = {part: _kilobytes(count) for part, count in details["bytes"].items()}
    for name, value in {"Subject": details["subject"], **details["headers"]}.items():
        out.print(f"{name}: {value}", markup=False)
    for file in details["attachments"]:
        out.print(f"Attached: {file['filename']} ({file['content_type']}, {_kilobytes(file['bytes'])})", markup=False)
    out.print(f"Size: text {size['text']}, HTML {size['html']}, whole message {size['message']}", markup=False)
    if details["bytes"]["html"] > GMAIL_CLIP_BYTES:
        err.print(f"backline: Gmail shows only the first {_kilobytes(GMAIL_CLIP_BYTES)} of the HTML part; shorten it")
    out.print(f"\n{details['text']}", markup=False, end="")


def _kilobytes(size: int) -> str:
    return f"{size / 1024:.1f} kB"
