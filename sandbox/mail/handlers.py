"""Shared by the pages and the JSON API: opening a message, reading a query or a body."""

from __future__ import annotations

from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request

from sandbox.mail.content import Content, parse_content
from sandbox.mail.faults import MailFaults
from sandbox.mail.mailbox import Entry, Mailbox

BODY_LIMIT = 1_000_000
"""Largest request body accepted, in bytes."""


class MailHandlers:
    """Handlers' access to the mailbox and the fault rules."""

    def __init__(self, mailbox: Mailbox, faults: MailFaults) -> None:
        self._mailbox = mailbox
        self._faults = faults

    async def _delete_messages(self) -> None:
        await run_in_threadpool(self._mailbox.remove, self._mailbox.clear())

    async def _read_message(self, request: Request) -> tuple[Entry, bytes]:
        entry = self._mailbox.get(request.path_params["id"])
        if entry is None:
            raise HTTPException(404, "Message not found; it may have been deleted.")
        try:
            return entry, await run_in_threadpool(self._mailbox.read, entry)
        except FileNotFoundError as exc:
            self._mailbox.remove_from_index(entry)
            raise HTTPException(404, "The file of this message was removed from the Maildir.") from exc

    async def _read_parsed_message(self, request: Request) -> tuple[Entry, Content]:
        entry, raw = await self._read_message(request)
        return entry, await run_in_threadpool(parse_content, raw)


async def read_body(request: Request) -> bytes:
    """Read the request's body. Raises HTTPException 413 if it is over BODY_LIMIT."""
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > BODY_LIMIT:
            raise HTTPException(413, f"body: should be at most {BODY_LIMIT} bytes")
    return body


def read_query(request: Request, *names: str) -> dict[str, str]:
    """Read the query's parameters. Raises HTTPException 400 if one is not among `names`."""
    query = dict(request.query_params)
    for name in query:
        if name not in names:
            raise HTTPException(400, f"{name}: unknown parameter; known ones are {', '.join(names)}")
    return query


def parse_int(query: dict[str, str], name: str, default: int, limit: int) -> int:
    """Read a whole number from 0 to `limit` from the query. Raises HTTPException 400 naming the parameter."""
    text = query.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdecimal() and len(text) < 20 and int(text) <= limit):
        raise HTTPException(400, f"{name}: should be a whole number from 0 to {limit}")
    return int(text)
