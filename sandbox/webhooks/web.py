"""The webhook endpoint's routes: receiving events, a page to read them, fault injection, and a small JSON API."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime
from itertools import islice, repeat
from pathlib import Path
from urllib.parse import parse_qsl

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import (
    HTMLResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route

from sandbox.gateways.faults import ConnectionDropped
from sandbox.mail.handlers import parse_int, read_body, read_query
from sandbox.webhooks.endpoint import InvalidFaultRules, ReceivedRequest, WebhookEndpoint, WebhookFaultRule, parse_rules

MAX_RESULTS = 1000
"""The most requests returned at once."""
PAGE_SIZE = 50
PRESETS = {
    "503": WebhookFaultRule(status=503),
    "503, retry after 5 s": WebhookFaultRule(status=503, retry_after=5),
    "404": WebhookFaultRule(status=404),
    "410": WebhookFaultRule(status=410),
    "redirect": WebhookFaultRule(status=302, location="http://127.0.0.1/elsewhere"),
    "slow": WebhookFaultRule(status=200, seconds=5.0),
    "drop": WebhookFaultRule(drop=True),
}
"""The buttons of the page."""


class WebhookHandlers:
    """Handlers of all webhook routes."""

    def __init__(self) -> None:
        self._endpoint = WebhookEndpoint()
        self._templates = Environment(
            loader=FileSystemLoader(Path(__file__).parent / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
        )
        self._templates.filters.update(moment=_format_time, pretty=_pretty_json)

    def routes(self) -> list[Route]:
        """All routes below /webhooks."""
        return [
            Route("/webhooks", self.page),
            Route("/webhooks/in/{name:path}", self.receive, methods=["POST"]),
            Route("/webhooks/fault-injection", self.add_fault_form, methods=["POST"]),
            Route("/webhooks/fault-injection/clear", self.clear_faults_form, methods=["POST"]),
            Route("/webhooks/empty", self.delete_requests_form, methods=["POST"]),
            Route("/webhooks/faults", self.list_faults),
            Route("/webhooks/faults", self.replace_faults, methods=["PUT"]),
            Route("/webhooks/faults", self.clear_faults, methods=["DELETE"]),
            Route("/webhooks/api/requests", self.list_requests),
            Route("/webhooks/api/requests", self.delete_requests, methods=["DELETE"]),
        ]

    async def receive(self, request: Request) -> Response:
        """Accept an event, or respond as a fault rule requires."""
        body = await read_body(request)
        name = request.path_params["name"]
        rule = self._endpoint.match_rule(name)
        status = 200 if rule is None else rule.status
        self._endpoint.record(name, dict(request.headers), body, status)
        if rule is not None and rule.seconds:
            await asyncio.sleep(rule.seconds)
        if rule is not None and rule.drop:
            raise ConnectionDropped
        if rule is None:
            return PlainTextResponse("accepted")
        text = f"status {status} set by a fault rule" if rule.body is None else rule.body
        response = StreamingResponse(repeat(text), status) if rule.endless else PlainTextResponse(text, status)
        response.headers.update(rule.response_headers())
        for header, value in rule.headers:
            response.headers.append(header, value)
        return response

    async def page(self, _request: Request) -> Response:
        """The received requests, newest first, and the fault rules."""
        return self._render()

    async def list_requests(self, request: Request) -> Response:
        """List requests by endpoint name (a glob) and id, oldest first."""
        query = read_query(request, "name", "since", "limit")
        since, limit = parse_int(query, "since", 0, 2**53), parse_int(query, "limit", 50, MAX_RESULTS)
        found = self._endpoint.find(query.get("name") or "*", since)
        return JSONResponse({"requests": [one.as_json() for one in islice(found, limit)]})

    async def delete_requests(self, _request: Request) -> Response:
        """Delete all requests."""
        return JSONResponse({"deleted": self._endpoint.clear()})

    async def delete_requests_form(self, _request: Request) -> Response:
        """Delete all requests, from the page."""
        self._endpoint.clear()
        return RedirectResponse("/webhooks", 303)

    async def list_faults(self, _request: Request) -> Response:
        """The rules with their counts."""
        return JSONResponse(self._endpoint.rules())

    async def replace_faults(self, request: Request) -> Response:
        """Replace all rules."""
        try:
            self._endpoint.replace_rules(parse_rules(await read_body(request)))
        except InvalidFaultRules as exc:
            return JSONResponse({"detail": str(exc)}, 400)
        return JSONResponse(self._endpoint.rules())

    async def clear_faults(self, _request: Request) -> Response:
        """Remove all rules."""
        self._endpoint.replace_rules([])
        return JSONResponse([])

    async def add_fault_form(self, request: Request) -> Response:
        """Add the rule that the form describes."""
        form = dict(parse_qsl((await read_body(request)).decode("utf-8", "replace")))
        name, times = form.get("name", "*").strip() or "*", form.get("times", "").strip()
        preset = PRESETS.get(form.get("kind", ""))
        if preset is None:
            return self._render(400, f"kind: use one of {', '.join(PRESETS)}")
        rule = {
            **preset.model_dump(),
            "name": name,
            "times": int(times) if times.isascii() and times.isdecimal() else None,
        }
        if times and rule["times"] is None:
            return self._render(400, "times: should be a whole number from 1, or empty for always")
        try:
            self._endpoint.add_rule(parse_rules(json.dumps([rule]).encode())[0])
        except InvalidFaultRules as exc:
            return self._render(400, str(exc).removeprefix("[0]."))
        return RedirectResponse("/webhooks", 303)

    async def clear_faults_form(self, _request: Request) -> Response:
        """Remove all rules, from the page."""
        self._endpoint.replace_rules([])
        return RedirectResponse("/webhooks", 303)

    def _render(self, status: int = 200, problem: str = "") -> Response:
        newest: list[ReceivedRequest] = list(self._endpoint.find())[::-1]
        page = self._templates.get_template("requests.html").render(
            received=newest[:PAGE_SIZE], total=len(newest), rules=self._endpoint.rules(), presets=list(PRESETS),
            problem=problem,
        )  # fmt: skip
        return HTMLResponse(page, status)


def _format_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _pretty_json(body: str) -> str:
    try:
        return json.dumps(json.loads(body), indent=2, ensure_ascii=False)
    except ValueError:
        return body
