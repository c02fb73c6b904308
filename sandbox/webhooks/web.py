"""The endpoint's web side: where events are posted, a page to read them, switches, and a small JSON API."""

from __future__ import annotations

import asyncio
import json
from datetime import datetime
from itertools import islice
from pathlib import Path
from urllib.parse import parse_qsl

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

from sandbox.gateways.dropping import Dropped
from sandbox.mail.endpoint import read_body, read_query, whole_number
from sandbox.webhooks.received import Endpoint, InvalidRules, Received, Rule, parse_rules

LIMIT = 1000
"""Most requests given at once."""
PAGE_SIZE = 50
PRESETS = {
    "503": Rule(status=503),
    "503, come back in 5 s": Rule(status=503, retry_after=5),
    "404": Rule(status=404),
    "410": Rule(status=410),
    "redirect": Rule(status=302, location="http://127.0.0.1/elsewhere"),
    "slow": Rule(status=200, seconds=5.0),
    "cut off": Rule(drop=True),
}
"""The buttons of the page."""


class Webhooks:
    """Handlers over one endpoint's memory."""

    def __init__(self) -> None:
        self._endpoint = Endpoint()
        self._templates = Environment(
            loader=FileSystemLoader(Path(__file__).parent / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
        )
        self._templates.filters.update(moment=_show_moment, pretty=_pretty)

    def routes(self) -> list[Route]:
        """All below /webhooks."""
        return [
            Route("/webhooks", self.page),
            Route("/webhooks/in/{name:path}", self.take, methods=["POST"]),
            Route("/webhooks/switches", self.add_switch, methods=["POST"]),
            Route("/webhooks/switches/clear", self.clear_switches, methods=["POST"]),
            Route("/webhooks/empty", self.empty_page, methods=["POST"]),
            Route("/webhooks/faults", self.list_faults),
            Route("/webhooks/faults", self.replace_faults, methods=["PUT"]),
            Route("/webhooks/faults", self.clear_faults, methods=["DELETE"]),
            Route("/webhooks/api/requests", self.requests),
            Route("/webhooks/api/requests", self.empty, methods=["DELETE"]),
        ]

    async def take(self, request: Request) -> Response:
        """Take an event, or answer as a rule says."""
        body = await read_body(request)
        name = request.path_params["name"]
        rule = self._endpoint.rule_for(name)
        status = 200 if rule is None else rule.status
        self._endpoint.take(name, dict(request.headers), body, status)
        if rule is not None and rule.seconds:
            await asyncio.sleep(rule.seconds)
        if rule is not None and rule.drop:
            raise Dropped
        text = "taken" if rule is None else f"answered {status} by a rule"
        return PlainTextResponse(text, status, {} if rule is None else rule.headers())

    async def page(self, _request: Request) -> Response:
        """What came, newest first, and the switches."""
        return self._show()

    async def requests(self, request: Request) -> Response:
        """Requests by endpoint's name (a glob) and id, oldest first."""
        query = read_query(request, "name", "since", "limit")
        since, limit = whole_number(query, "since", 0, 2**53), whole_number(query, "limit", 50, LIMIT)
        found = self._endpoint.found(query.get("name") or "*", since)
        return JSONResponse({"requests": [one.as_json() for one in islice(found, limit)]})

    async def empty(self, _request: Request) -> Response:
        """Forget all requests."""
        return JSONResponse({"deleted": self._endpoint.forget()})

    async def empty_page(self, _request: Request) -> Response:
        """As `empty`, from the page."""
        self._endpoint.forget()
        return RedirectResponse("/webhooks", 303)

    async def list_faults(self, _request: Request) -> Response:
        """The rules with their counts."""
        return JSONResponse(self._endpoint.rules())

    async def replace_faults(self, request: Request) -> Response:
        """Put a list of rules in the place of all others."""
        try:
            self._endpoint.replace_rules(parse_rules(await read_body(request)))
        except InvalidRules as exc:
            return JSONResponse({"detail": str(exc)}, 400)
        return JSONResponse(self._endpoint.rules())

    async def clear_faults(self, _request: Request) -> Response:
        """Remove all rules."""
        self._endpoint.replace_rules([])
        return JSONResponse([])

    async def add_switch(self, request: Request) -> Response:
        """Add the rule that the form describes."""
        form = dict(parse_qsl((await read_body(request)).decode("utf-8", "replace")))
        name, times = form.get("name", "*").strip() or "*", form.get("times", "").strip()
        preset = PRESETS.get(form.get("kind", ""))
        if preset is None:
            return self._show(400, f"kind: use one of {', '.join(PRESETS)}")
        rule = {
            **preset.model_dump(),
            "name": name,
            "times": int(times) if times.isascii() and times.isdecimal() else None,
        }
        if times and rule["times"] is None:
            return self._show(400, "times: should be a whole number from 1, or nothing for always")
        try:
            self._endpoint.add_rule(parse_rules(json.dumps([rule]).encode())[0])
        except InvalidRules as exc:
            return self._show(400, str(exc).removeprefix("[0]."))
        return RedirectResponse("/webhooks", 303)

    async def clear_switches(self, _request: Request) -> Response:
        """Remove all rules, from the page."""
        self._endpoint.replace_rules([])
        return RedirectResponse("/webhooks", 303)

    def _show(self, status: int = 200, problem: str = "") -> Response:
        newest: list[Received] = list(self._endpoint.found())[::-1]
        page = self._templates.get_template("requests.html").render(
            received=newest[:PAGE_SIZE], total=len(newest), rules=self._endpoint.rules(), presets=list(PRESETS),
            problem=problem,
        )  # fmt: skip
        return HTMLResponse(page, status)


def _show_moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def _pretty(body: str) -> str:
    try:
        return json.dumps(json.loads(body), indent=2, ensure_ascii=False)
    except ValueError:
        return body
