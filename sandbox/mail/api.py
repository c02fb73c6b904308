"""The mail catcher's JSON API, for tests and scripts."""

from __future__ import annotations

import math
from itertools import islice

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from sandbox.fault_injection import InvalidFaultRules
from sandbox.mail.faults import parse_rules
from sandbox.mail.handlers import MailHandlers, parse_int, read_body, read_query
from sandbox.mail.mailbox import Entry

MAX_RESULTS = 1000
"""The most messages returned at once."""


class ApiHandlers(MailHandlers):
    """Handlers that return JSON."""

    async def livez(self, _request: Request) -> Response:
        """Liveness, and how many messages are stored."""
        return JSONResponse({"status": "ok", "messages": len(self._mailbox)})

    async def messages(self, request: Request) -> Response:
        """List messages by recipient, subject and time, newest first."""
        query = read_query(request, "to", "subject", "since", "before", "limit", "offset")
        to, subject, since = query.get("to", ""), query.get("subject", ""), parse_since(query)
        limit = parse_int(query, "limit", 50, MAX_RESULTS)
        offset = parse_int(query, "offset", 0, 2**53)
        before = parse_int(query, "before", 2**53, 2**53)
        found = self._mailbox.find(to=to, subject=subject, since=since, before=before)
        total = self._mailbox.count(to=to, subject=subject, since=since)
        return JSONResponse(
            {"total": total, "messages": [_summary(entry) for entry in islice(found, offset, offset + limit)]}
        )

    async def message(self, request: Request) -> Response:
        """One message with its parts."""
        entry, content = await self._read_parsed_message(request)
        attachments = [
            {
                "filename": part.filename,
                "content_type": part.content_type,
                "size": len(part.content),
                "url": f"/messages/{entry.id}/attachments/{index}",
            }
            for index, part in enumerate(content.attachments)
        ]
        return JSONResponse(
            {
                **_summary(entry),
                "headers": content.headers,
                "text": content.text,
                "html": content.html,
                "links": content.links,
                "attachments": attachments,
                "raw_url": f"/messages/{entry.id}/raw",
            }
        )

    async def count(self, request: Request) -> Response:
        """Count the messages that match."""
        query = read_query(request, "to", "subject", "since")
        count = self._mailbox.count(to=query.get("to", ""), subject=query.get("subject", ""), since=parse_since(query))
        return JSONResponse({"count": count})

    async def delete_messages(self, _request: Request) -> Response:
        """Delete all messages and their files."""
        deleted = len(self._mailbox)
        await self._delete_messages()
        return JSONResponse({"deleted": deleted})

    async def list_faults(self, _request: Request) -> Response:
        """The fault rules with their counts."""
        return JSONResponse(self._faults.as_dicts())

    async def replace_faults(self, request: Request) -> Response:
        """Replace all rules."""
        try:
            self._faults.replace(parse_rules(await read_body(request)))
        except InvalidFaultRules as exc:
            return JSONResponse({"detail": str(exc)}, 400)
        return JSONResponse(self._faults.as_dicts())

    async def clear_faults(self, _request: Request) -> Response:
        """Remove all rules."""
        self._faults.replace([])
        return JSONResponse([])


def _summary(entry: Entry) -> dict[str, object]:
    return {
        "id": entry.id,
        "arrived_at": entry.arrived_at,
        "from": entry.sender,
        "to": entry.recipients,
        "subject": entry.subject,
        "message_id": entry.message_id,
        "size": entry.size,
        "file": entry.file,
    }


def parse_since(query: dict[str, str]) -> float | None:
    """The `since` parameter in seconds since 1970. Raises HTTPException 400 if it is invalid."""
    text = query.get("since", "")
    try:
        since = float(text) if text else None
    except ValueError:
        since = math.nan
    if since is not None and not 0 <= since < 1e11:
        raise HTTPException(400, "since: should be seconds since 1970, such as 1767225600.5")
    return since
