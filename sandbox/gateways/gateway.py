"""The base of every gateway emulator: an inbox, fault injection, pages, and a small JSON API."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from itertools import islice, repeat
from typing import Any
from urllib.parse import parse_qsl, urlencode

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import BaseRoute, Route

from sandbox.fault_injection import InvalidFaultRules, parse_rule_form
from sandbox.gateways.faults import (
    FIELD_HINTS,
    REQUEST_STAGE,
    ConnectionDropped,
    GatewayFaultRule,
    GatewayFaults,
    parse_rules,
    validate_rules,
)
from sandbox.gateways.inbox import Inbox
from sandbox.mail.api import MAX_RESULTS, parse_since
from sandbox.mail.handlers import parse_int, read_body, read_query

PAGE_SIZE = 50
RenderPage = Callable[..., Response]
"""Renders a template: its name, then a status and values."""


class Gateway:
    """One emulator under `/<name>/`. A subclass adds the provider's routes and the presets of the fault page."""

    name: str
    title: str
    example: str
    """A command that sends a message to this gateway."""
    presets: Mapping[str, Mapping[str, Any]]

    def __init__(self, render_page: RenderPage) -> None:
        self.inbox = Inbox()
        self.faults = GatewayFaults()
        self._render_page = render_page

    def routes(self) -> list[BaseRoute]:
        """Pages and JSON API."""
        root = f"/{self.name}"
        return [
            Route(f"{root}/", self.list_page),
            Route(f"{root}/messages/{{id:int}}", self.message_page),
            Route(f"{root}/fault-injection", self.faults_page),
            Route(f"{root}/fault-injection", self.add_fault_form, methods=["POST"]),
            Route(f"{root}/fault-injection/clear", self.clear_faults_form, methods=["POST"]),
            Route(f"{root}/empty", self.delete_messages_form, methods=["POST"]),
            Route(f"{root}/faults", self.list_faults),
            Route(f"{root}/faults", self.replace_faults, methods=["PUT"]),
            Route(f"{root}/faults", self.clear_faults, methods=["DELETE"]),
            Route(f"{root}/api/messages", self.messages),
            Route(f"{root}/api/messages", self.delete_messages, methods=["DELETE"]),
            Route(f"{root}/api/count", self.count),
        ]

    async def accept(self, to: str, store: Callable[[], Response]) -> Response:
        """Call `store` and return its response, or the response of the fault rule that matches the recipient."""
        rule = self.faults.match(REQUEST_STAGE, (to,))
        if rule is None:
            return store()
        stored = store() if rule.after else None
        if rule.action == "slow":
            await asyncio.sleep(rule.seconds)
            return stored or store()
        if rule.action == "drop":
            raise ConnectionDropped
        return _fault_response(rule)

    # --- JSON ---------------------------------------------------------------------------------------

    async def messages(self, request: Request) -> Response:
        """List messages by recipient, text and time, newest first."""
        query = read_query(request, "to", "text", "since", "before", "limit")
        limit = parse_int(query, "limit", 50, MAX_RESULTS)
        before = parse_int(query, "before", 2**53, 2**53)
        found = self.inbox.find(
            to=query.get("to", ""), text=query.get("text", ""), since=parse_since(query), before=before
        )
        return JSONResponse({"messages": [entry.as_dict() for entry in islice(found, limit)]})

    async def count(self, request: Request) -> Response:
        """Count the messages that match."""
        query = read_query(request, "to", "text", "since")
        found = self.inbox.find(to=query.get("to", ""), text=query.get("text", ""), since=parse_since(query))
        return JSONResponse({"count": sum(1 for _ in found)})

    async def delete_messages(self, _request: Request) -> Response:
        """Delete all messages."""
        return JSONResponse({"deleted": self.inbox.clear()})

    async def list_faults(self, _request: Request) -> Response:
        """The fault rules with their counts."""
        return JSONResponse(self.faults.as_dicts())

    async def replace_faults(self, request: Request) -> Response:
        """Replace all rules."""
        try:
            self.faults.replace(parse_rules(await read_body(request)))
        except InvalidFaultRules as exc:
            return JSONResponse({"detail": str(exc)}, 400)
        return JSONResponse(self.faults.as_dicts())

    async def clear_faults(self, _request: Request) -> Response:
        """Remove all rules."""
        self.faults.replace([])
        return JSONResponse([])

    # --- pages --------------------------------------------------------------------------------------

    def _render(self, template: str, status: int = 200, **values: object) -> Response:
        return self._render_page(template, status, gateway=self, active_here=self.faults.active_count, **values)

    async def list_page(self, request: Request) -> Response:
        """A page of messages, newest first; `before` is the id of the last message of the previous page."""
        query = read_query(request, "to", "text", "before")
        to, text = query.get("to", "").strip(), query.get("text", "").strip()
        before = parse_int(query, "before", 2**53, 2**53)
        found = self.inbox.find(to=f"*{to}*" if to else "", text=text, before=before)
        entries = list(islice(found, PAGE_SIZE + 1))
        kept = {name: value for name, value in (("to", to), ("text", text)) if value}
        older = urlencode({**kept, "before": entries[PAGE_SIZE - 1].id}) if len(entries) > PAGE_SIZE else ""
        return self._render("gateway.html", entries=entries[:PAGE_SIZE], to=to, text=text, older=older)

    async def message_page(self, request: Request) -> Response:
        """One message with all fields of its request."""
        entry = self.inbox.get(request.path_params["id"])
        if entry is None:
            raise HTTPException(404, "Message not found; it may have been deleted.")
        details = {
            name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2)
            for name, value in entry.details.items()
        }
        return self._render("received.html", entry=entry, details=details)

    def _render_faults_page(self, status: int = 200, problem: str = "") -> Response:
        return self._render("gateway_faults.html", status, rules=self.faults.as_dicts(), problem=problem)

    async def faults_page(self, _request: Request) -> Response:
        """The fault rules and the form to add one."""
        return self._render_faults_page()

    async def add_fault_form(self, request: Request) -> Response:
        """Add the rule that the form describes."""
        form = dict(parse_qsl((await read_body(request)).decode("utf-8", "replace")))
        try:
            self.faults.add(validate_rules([parse_rule_form(form, self.presets, FIELD_HINTS)]))
        except InvalidFaultRules as exc:
            return self._render_faults_page(400, str(exc).removeprefix("[0]."))
        return RedirectResponse(f"/{self.name}/fault-injection", 303)

    async def clear_faults_form(self, _request: Request) -> Response:
        """Remove all rules."""
        self.faults.replace([])
        return RedirectResponse(f"/{self.name}/fault-injection", 303)

    async def delete_messages_form(self, _request: Request) -> Response:
        """Delete all messages, from the page."""
        self.inbox.clear()
        return RedirectResponse(f"/{self.name}/", 303)


def _fault_response(rule: GatewayFaultRule) -> Response:
    headers = {} if rule.retry_after is None else {"retry-after": str(rule.retry_after)}
    response: Response
    if rule.endless:
        response = StreamingResponse(repeat(str(rule.body) or " "), rule.status, headers)
    elif isinstance(rule.body, str):
        response = PlainTextResponse(rule.body, rule.status, headers)
    else:
        response = JSONResponse(rule.body, rule.status, headers)
    for name, value in rule.headers:
        response.headers.append(name, value)
    return response
