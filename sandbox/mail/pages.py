"""The pages to read mail and to set fault rules. They run no script."""

from __future__ import annotations

from datetime import datetime
from itertools import islice
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlencode

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response

from sandbox.fault_injection import InvalidFaultRules, parse_rule_form
from sandbox.mail.faults import FIELD_HINTS, MailFaults, validate_rules
from sandbox.mail.handlers import MailHandlers, parse_int, read_body, read_query
from sandbox.mail.mailbox import Mailbox

PAGE_SIZE = 50

_TEMPLATES = Path(__file__).parent / "templates"
_JSON_PATHS = ("/api/", "/faults", "/livez", "/sms/api/", "/sms/2010", "/sms/faults", "/push/api/", "/push/v1", "/push/faults")  # fmt: skip
"""Paths whose errors are JSON."""
_PRESETS: dict[str, dict[str, object]] = {
    "4xx": {"stage": "rcpt", "action": "reply", "reply": "451 4.3.0 try later"},
    "5xx": {"stage": "rcpt", "action": "reply", "reply": "550 5.1.1 no such user"},
    "slow": {"stage": "data", "action": "slow", "seconds": 2.0},
    "drop": {"stage": "data", "action": "drop"},
    "drop after": {"stage": "data", "action": "drop", "after": True},
}


class PageHandlers(MailHandlers):
    """Handlers that return HTML or a file."""

    def __init__(self, mailbox: Mailbox, faults: MailFaults) -> None:
        super().__init__(mailbox, faults)
        self._templates = Environment(
            loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True
        )
        self._templates.filters.update(moment=_format_time, size=_format_size)

    def render(self, name: str, status: int = 200, **values: object) -> Response:
        """Render a template."""
        shared = {"stored": len(self._mailbox), "active_faults": self._faults.active_count}
        return HTMLResponse(self._templates.get_template(name).render(**shared, **values), status)

    async def inbox(self, request: Request) -> Response:
        """A page of messages, newest first; `before` is the id of the last message of the previous page."""
        query = read_query(request, "to", "subject", "before", "live")
        to, subject = query.get("to", "").strip(), query.get("subject", "").strip()
        to_anywhere = f"*{to}*" if to else ""
        before = parse_int(query, "before", 2**53, 2**53)
        found = self._mailbox.find(to=to_anywhere, subject=subject, before=before)
        entries = list(islice(found, PAGE_SIZE + 1))
        kept = {name: value for name, value in (("to", to), ("subject", subject)) if value}
        older = urlencode({**kept, "before": entries[PAGE_SIZE - 1].id}) if len(entries) > PAGE_SIZE else ""
        return self.render(
            "inbox.html",
            entries=entries[:PAGE_SIZE],
            total=self._mailbox.count(to=to_anywhere, subject=subject),
            to=to,
            subject=subject,
            first=before == 2**53,
            older=older,
            newest=urlencode(kept),
            live=query.get("live") == "1",
            toggle_live=urlencode(kept if query.get("live") == "1" else {**kept, "live": "1"}),
        )

    async def message(self, request: Request) -> Response:
        """One message: envelope, HTML, text, headers, attachments."""
        entry, content = await self._read_parsed_message(request)
        return self.render("message.html", entry=entry, content=content)

    async def raw(self, request: Request) -> Response:
        """The file as stored in the Maildir."""
        _, raw = await self._read_message(request)
        return Response(raw, media_type="text/plain; charset=utf-8")

    async def attachment(self, request: Request) -> Response:
        """One attachment, always as a download."""
        _, content = await self._read_parsed_message(request)
        index = request.path_params["index"]
        if index >= len(content.attachments):
            raise HTTPException(404, "Attachment not found.")
        part = content.attachments[index]
        disposition = f"attachment; filename*=UTF-8''{quote(part.filename, safe='')}"
        return Response(
            part.content, headers={"content-disposition": disposition}, media_type="application/octet-stream"
        )

    async def stylesheet(self, _request: Request) -> Response:
        """The style sheet."""
        return FileResponse(_TEMPLATES / "style.css", media_type="text/css")

    def _render_faults_page(self, status: int = 200, problem: str = "") -> Response:
        return self.render(
            "faults.html", status, rules=self._faults.as_dicts(), presets=list(_PRESETS), problem=problem
        )

    async def faults_page(self, _request: Request) -> Response:
        """The fault rules and the form to add one."""
        return self._render_faults_page()

    async def add_fault_form(self, request: Request) -> Response:
        """Add the rule that the form describes."""
        form = dict(parse_qsl((await read_body(request)).decode("utf-8", "replace")))
        try:
            self._faults.add(validate_rules([parse_rule_form(form, _PRESETS, FIELD_HINTS)]))
        except InvalidFaultRules as exc:
            return self._render_faults_page(400, str(exc).removeprefix("[0]."))
        return RedirectResponse("/fault-injection", 303)

    async def clear_faults_form(self, _request: Request) -> Response:
        """Remove all rules."""
        self._faults.replace([])
        return RedirectResponse("/fault-injection", 303)

    async def delete_messages_form(self, _request: Request) -> Response:
        """Delete all messages and their files."""
        await self._delete_messages()
        return RedirectResponse("/", 303)

    async def error(self, request: Request, exc: Exception) -> Response:
        """An HTTP error, as JSON for the API and as a page for people."""
        status, detail = (exc.status_code, exc.detail) if isinstance(exc, HTTPException) else (500, "Internal error.")
        if request.url.path.startswith(_JSON_PATHS):
            return JSONResponse({"detail": detail}, status)
        return self.render("error.html", status, code=status, detail=detail)


def _format_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _format_size(size: int) -> str:
    return f"{size} B" if size < 1000 else f"{size / 1000:.1f} kB" if size < 1_000_000 else f"{size / 1e6:.1f} MB"
