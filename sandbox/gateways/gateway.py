"""What the stand-ins share: an inbox, fault switches, pages to read what came, and a small JSON API."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Any
from urllib.parse import parse_qsl, urlencode

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from sandbox.gateways.dropping import Dropped
from sandbox.gateways.faults import HINTS, REQUEST, Faults, Rule, check_rules, parse_rules
from sandbox.gateways.inbox import Inbox
from sandbox.mail.api import LIMIT, moment
from sandbox.mail.endpoint import read_body, read_query, whole_number
from sandbox.switches import InvalidRules

PAGE_SIZE = 50
Page = Callable[..., Response]
"""Renders a template: its name, then a status and values."""


class Gateway:
    """One stand-in under `/<name>/`. A subclass adds the provider's own routes and the faults that are worth a button."""

    name: str
    title: str
    example: str
    """A command that makes a message come."""
    presets: Mapping[str, Mapping[str, Any]]

    def __init__(self, page: Page) -> None:
        self.inbox = Inbox()
        self.faults = Faults()
        self._page = page

    def routes(self) -> list[BaseRoute]:
        """Pages and JSON API."""
        root = f"/{self.name}"
        return [
            Route(f"{root}/", self.list_page),
            Route(f"{root}/messages/{{id:int}}", self.message_page),
            Route(f"{root}/switches", self.switches_page),
            Route(f"{root}/switches", self.add_switch, methods=["POST"]),
            Route(f"{root}/switches/clear", self.clear_switches, methods=["POST"]),
            Route(f"{root}/empty", self.empty_page, methods=["POST"]),
            Route(f"{root}/faults", self.list_faults),
            Route(f"{root}/faults", self.replace_faults, methods=["PUT"]),
            Route(f"{root}/faults", self.clear_faults, methods=["DELETE"]),
            Route(f"{root}/api/messages", self.messages),
            Route(f"{root}/api/messages", self.empty, methods=["DELETE"]),
            Route(f"{root}/api/count", self.count),
        ]

    async def accept(self, to: str, keep: Callable[[], Response]) -> Response:
        """Take a message by `keep`, unless a rule says otherwise."""
        rule = self.faults.strike(REQUEST, (to,))
        if rule is None:
            return keep()
        kept = keep() if rule.after else None
        if rule.action == "slow":
            await asyncio.sleep(rule.seconds)
            return kept or keep()
        if rule.action == "drop":
            raise Dropped
        return _answer(rule)

    # --- JSON ---------------------------------------------------------------------------------------

    async def messages(self, request: Request) -> Response:
        """Messages by recipient, text and time, newest first."""
        query = read_query(request, "to", "text", "since", "before", "limit")
        limit = whole_number(query, "limit", 50, LIMIT)
        before = whole_number(query, "before", 2**53, 2**53)
        found = self.inbox.find(to=query.get("to", ""), text=query.get("text", ""), since=moment(query), before=before)
        return JSONResponse({"messages": [entry.describe() for entry in islice(found, limit)]})

    async def count(self, request: Request) -> Response:
        """How many messages match."""
        query = read_query(request, "to", "text", "since")
        found = self.inbox.find(to=query.get("to", ""), text=query.get("text", ""), since=moment(query))
        return JSONResponse({"count": sum(1 for _ in found)})

    async def empty(self, _request: Request) -> Response:
        """Forget all messages."""
        return JSONResponse({"deleted": self.inbox.clear()})

    async def list_faults(self, _request: Request) -> Response:
        """The fault rules with their counts."""
        return JSONResponse(self.faults.describe())

    async def replace_faults(self, request: Request) -> Response:
        """Put a list of rules in the place of all others."""
        try:
            self.faults.replace(parse_rules(await read_body(request)))
        except InvalidRules as exc:
            return JSONResponse({"detail": str(exc)}, 400)
        return JSONResponse(self.faults.describe())

    async def clear_faults(self, _request: Request) -> Response:
        """Remove all rules."""
        self.faults.replace([])
        return JSONResponse([])

    # --- pages --------------------------------------------------------------------------------------

    def _show(self, template: str, status: int = 200, **values: object) -> Response:
        return self._page(template, status, gateway=self, active_here=self.faults.active, **values)

    async def list_page(self, request: Request) -> Response:
        """A page of messages, newest first; older ones by the id of the last shown."""
        query = read_query(request, "to", "text", "before")
        to, text = query.get("to", "").strip(), query.get("text", "").strip()
        before = whole_number(query, "before", 2**53, 2**53)
        found = self.inbox.find(to=f"*{to}*" if to else "", text=text, before=before)
        entries = list(islice(found, PAGE_SIZE + 1))
        kept = {name: value for name, value in (("to", to), ("text", text)) if value}
        older = urlencode({**kept, "before": entries[PAGE_SIZE - 1].id}) if len(entries) > PAGE_SIZE else ""
        return self._show("gateway.html", entries=entries[:PAGE_SIZE], to=to, text=text, older=older)

    async def message_page(self, request: Request) -> Response:
        """One message, with all that the request said."""
        entry = self.inbox.get(request.path_params["id"])
        if entry is None:
            raise HTTPException(404, "There is no such message; it may have been deleted.")
        details = {
            name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2)
            for name, value in entry.details.items()
        }
        return self._show("received.html", entry=entry, details=details)

    def _show_switches(self, status: int = 200, problem: str = "") -> Response:
        return self._show("gateway_switches.html", status, rules=self.faults.describe(), problem=problem)

    async def switches_page(self, _request: Request) -> Response:
        """The fault rules and the form to add one."""
        return self._show_switches()

    async def add_switch(self, request: Request) -> Response:
        """Add the rule that the form describes."""
        form = dict(parse_qsl((await read_body(request)).decode("utf-8", "replace")))
        kind = form.pop("kind", "")
        if kind not in self.presets:
            return self._show_switches(400, f"kind: use one of {', '.join(self.presets)}")
        readers: dict[str, Callable[[str], object]] = {"times": int, "seconds": float, "probability": float}
        rule: dict[str, object] = dict(self.presets[kind])
        for field, text in form.items():
            try:
                rule[field] = readers.get(field, str)(text.strip())
            except ValueError:
                return self._show_switches(400, f"{field}: should be {HINTS[field]}")
        try:
            self.faults.add(check_rules([rule]))
        except InvalidRules as exc:
            return self._show_switches(400, str(exc).removeprefix("[0]."))
        return RedirectResponse(f"/{self.name}/switches", 303)

    async def clear_switches(self, _request: Request) -> Response:
        """Remove all rules."""
        self.faults.replace([])
        return RedirectResponse(f"/{self.name}/switches", 303)

    async def empty_page(self, _request: Request) -> Response:
        """Forget all messages."""
        self.inbox.clear()
        return RedirectResponse(f"/{self.name}/", 303)


def _answer(rule: Rule) -> Response:
    headers = {} if rule.retry_after is None else {"retry-after": str(rule.retry_after)}
    if isinstance(rule.body, str):
        return PlainTextResponse(rule.body, rule.status, headers)
    return JSONResponse(rule.body, rule.status, headers)
