"""An emulator of Stripe's API: PaymentIntents, refunds, search by metadata, idempotency keys, and faults."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from sandbox.gateways.gateway import Gateway, RenderPage
from sandbox.gateways.intents import StripeAccount, StripeError, StripeResponse
from sandbox.mail.handlers import read_body
from sandbox.mail.security import basic_credentials

PAGE_LIMIT = 100


class StripeGateway(Gateway):
    """Accepts payments as Stripe does. A fault rule's `recipient` is the operation: create, confirm, cancel, refund, read."""

    name = "stripe"
    title = "Payments"
    example = "./backline trigger process_payment --conf '{\"order_id\": 17}' --wait"
    presets: Mapping[str, Mapping[str, Any]] = {
        "busy": {"status": 429, "body": {"error": {"type": "invalid_request_error", "code": "rate_limit"}}},
        "down": {"status": 503, "body": {"error": {"type": "api_error"}}},
        "declined": {
            "recipient": "confirm",
            "status": 402,
            "body": {"error": {"type": "card_error", "code": "card_declined", "decline_code": "insufficient_funds"}},
        },
        "slow": {"action": "slow", "seconds": 2.0},
        "drop": {"action": "drop"},
        "drop after": {"action": "drop", "after": True},
    }

    def __init__(self, render_page: RenderPage, api_key: str) -> None:
        super().__init__(render_page)
        self._api_key = api_key
        self._account = StripeAccount()

    def routes(self) -> list[BaseRoute]:
        """The common routes and the provider's API."""
        root = "/stripe/v1"
        return [
            *super().routes(),
            Route("/stripe/api/keys", self.clear_idempotency_keys, methods=["DELETE"]),
            Route("/stripe/api/capture", self.capture_part, methods=["POST"]),
            Route("/stripe/api/account", self.reset_account, methods=["DELETE"]),
            Route(f"{root}/payment_intents", self.create, methods=["POST"]),
            Route(f"{root}/payment_intents", self.list_intents),
            Route(f"{root}/payment_intents/search", self.search),
            Route(f"{root}/payment_intents/{{id}}", self.retrieve),
            Route(f"{root}/payment_intents/{{id}}/confirm", self.confirm, methods=["POST"]),
            Route(f"{root}/payment_intents/{{id}}/cancel", self.cancel, methods=["POST"]),
            Route(f"{root}/refunds", self.refund, methods=["POST"]),
            Route(f"{root}/refunds", self.list_refunds),
        ]

    async def create(self, request: Request) -> Response:
        """Create an intent."""
        return await self._handle_write(request, "create", self._account.create)

    async def confirm(self, request: Request) -> Response:
        """Charge an intent and show the charge on the page."""
        intent_id = request.path_params["id"]

        def confirm(form: Mapping[str, str]) -> dict[str, Any]:
            intent = self._account.confirm(intent_id, form)
            title = f"charged {intent['amount']} {intent['currency']}"
            details = {"intent": intent_id, **{name: intent[name] for name in ("amount", "currency", "metadata")}}
            self.inbox.add(form["payment_method"], title, intent["description"], details)
            return intent

        return await self._handle_write(request, "confirm", confirm)

    async def cancel(self, request: Request) -> Response:
        """Cancel an intent."""
        intent_id = request.path_params["id"]
        return await self._handle_write(request, "cancel", lambda _: self._account.cancel(intent_id))

    async def refund(self, request: Request) -> Response:
        """Refund a payment."""

        def refund(form: Mapping[str, str]) -> dict[str, Any]:
            made = self._account.refund(form)
            self.inbox.add(
                made["payment_intent"], f"refunded {made['amount']} {made['currency']}", "", {"refund": made["id"]}
            )
            return made

        return await self._handle_write(request, "refund", refund)

    async def retrieve(self, request: Request) -> Response:
        """One intent."""
        return await self._handle_read(request, lambda: self._account.get(request.path_params["id"]).as_json())

    async def search(self, request: Request) -> Response:
        """Search intents by metadata."""

        def search() -> dict[str, Any]:
            found = self._account.search(request.query_params.get("query", ""))
            data = [one.as_json() for one in found[: _page_limit(request)]]
            return {"object": "search_result", "url": "/v1/payment_intents/search", "has_more": False, "data": data}

        return await self._handle_read(request, search)

    async def list_intents(self, request: Request) -> Response:
        """List intents by creation time, newest first, in pages."""
        query = request.query_params
        since, before = int(query.get("created[gte]", 0)), int(query.get("created[lt]", 2**53))

        with_charge = "data.latest_charge" in query.values()

        def page() -> dict[str, Any]:
            found = [one.as_json(with_charge=with_charge) for one in self._account.list_intents(since, before)]
            return _list_page(request, "/v1/payment_intents", found)

        return await self._handle_read(request, page)

    async def list_refunds(self, request: Request) -> Response:
        """List refunds, newest first, in pages."""
        intent_id = request.query_params.get("payment_intent", "")
        return await self._handle_read(
            request, lambda: _list_page(request, "/v1/refunds", self._account.list_refunds(intent_id))
        )

    async def clear_idempotency_keys(self, _request: Request) -> Response:
        """Delete the idempotency keys, as Stripe does after a day."""
        return JSONResponse({"deleted": self._account.clear_idempotency_keys()})

    async def capture_part(self, request: Request) -> Response:
        """Capture a part of an intent, as in Stripe's dashboard: `payment_intent` and `amount`."""
        form = dict(parse_qsl((await read_body(request)).decode("utf-8", "replace")))
        amount = form.get("amount", "")
        if not amount.isdecimal():
            return JSONResponse({"error": "amount: give a whole number"}, 400)

        def capture() -> dict[str, Any]:
            return self._account.capture_part(form.get("payment_intent", ""), int(amount))

        return _json_response(self._account.run_idempotent(None, ("", None), capture))

    async def reset_account(self, _request: Request) -> Response:
        """Delete all payments."""
        self._account.reset()
        self.inbox.clear()
        return JSONResponse({})

    async def _handle_write(
        self, request: Request, operation: str, execute: Callable[[Mapping[str, str]], dict[str, Any]]
    ) -> Response:
        if not self._is_authorized(request):
            return _unauthorized()
        form = dict(parse_qsl((await read_body(request)).decode("utf-8", "replace"), keep_blank_values=True))
        key = request.headers.get("idempotency-key")
        content = (request.url.path, sorted(form.items()))
        return await self.accept(
            operation, lambda: _json_response(self._account.run_idempotent(key, content, lambda: execute(form)))
        )

    def _is_authorized(self, request: Request) -> bool:
        basic = basic_credentials(request)
        given = basic[0] if basic else request.headers.get("authorization", "").removeprefix("Bearer ")
        return hmac.compare_digest(given.encode(), self._api_key.encode())

    async def _handle_read(self, request: Request, read: Callable[[], dict[str, Any]]) -> Response:
        if not self._is_authorized(request):
            return _unauthorized()
        return await self.accept("read", lambda: _json_response(self._account.run_idempotent(None, ("", None), read)))


def _json_response(response: StripeResponse) -> Response:
    return JSONResponse(response[1], response[0])


def _unauthorized() -> Response:
    return _json_response(StripeError(401, "invalid_request_error", None, "Invalid API Key provided").response)


def _page_limit(request: Request) -> int:
    text = request.query_params.get("limit", "10")
    return max(1, min(int(text), PAGE_LIMIT)) if text.isdecimal() else 10


def _list_page(request: Request, url: str, found: list[dict[str, Any]]) -> dict[str, Any]:
    after = request.query_params.get("starting_after", "")
    start = next((index + 1 for index, one in enumerate(found) if one["id"] == after), 0)
    data = found[start : start + _page_limit(request)]
    return {"object": "list", "url": url, "has_more": start + len(data) < len(found), "data": data}
