"""An emulator of the parts of Razorpay's API that read and refund payments."""

from __future__ import annotations

import hmac
import json
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from sandbox.gateways.gateway import Gateway, RenderPage
from sandbox.mail.handlers import parse_int, read_body
from sandbox.mail.security import basic_credentials

KEY_ID = "rzp_test_sandbox"
PAGE_LIMIT = 100


def _error(status: int, code: str, description: str) -> Response:
    return JSONResponse({"error": {"code": code, "description": description}}, status)


class RazorpayGateway(Gateway):
    """Has payments, made by a test in place of the checkout, and refunds them. A fault's recipient is `read` or `refund`."""

    name = "razorpay"
    title = "Razorpay"
    example = "./backline trigger process_order --conf '{\"order_id\": 17}' --wait"
    presets: Mapping[str, Mapping[str, Any]] = {
        "down": {"status": 503, "body": {"error": {"code": "SERVER_ERROR", "description": "unavailable"}}},
        "refused": {
            "recipient": "refund",
            "status": 400,
            "body": {"error": {"code": "BAD_REQUEST_ERROR", "description": "The refund is not allowed."}},
        },
        "slow": {"action": "slow", "seconds": 2.0},
        "drop": {"action": "drop"},
        "drop after": {"action": "drop", "after": True},
    }

    def __init__(self, render_page: RenderPage, key_secret: str) -> None:
        super().__init__(render_page)
        self._key_secret = key_secret
        self._payments: dict[str, dict[str, Any]] = {}
        self._refunds: dict[str, list[dict[str, Any]]] = {}

    def routes(self) -> list[BaseRoute]:
        """The common routes and the provider's API."""
        root = "/razorpay/v1/payments"
        return [
            *super().routes(),
            Route("/razorpay/api/payments", self.add_payment, methods=["POST"]),
            Route("/razorpay/api/payments", self.reset, methods=["DELETE"]),
            Route(root, self.list_payments),
            Route(f"{root}/{{id}}", self.read_payment),
            Route(f"{root}/{{id}}/refund", self.refund, methods=["POST"]),
            Route(f"{root}/{{id}}/refunds", self.list_refunds),
        ]

    async def add_payment(self, request: Request) -> Response:
        """A customer pays at the checkout: amount, currency and notes; the status is `captured` unless another is given."""
        given = await _read_json(request)
        payment = {
            "id": f"pay_{secrets.token_hex(7)}", "entity": "payment", "status": "captured", "amount_refunded": 0,
            "notes": [], "created_at": int(time.time()), **given,
        }  # fmt: skip
        self._payments[payment["id"]] = payment
        self.inbox.add(payment["id"], f"paid {payment.get('amount')} {payment.get('currency')}", "", payment)
        return JSONResponse(payment)

    async def reset(self, _request: Request) -> Response:
        """Delete all payments."""
        self._payments.clear()
        self._refunds.clear()
        self.inbox.clear()
        return JSONResponse({})

    async def list_payments(self, request: Request) -> Response:
        """Payments by creation time, newest first, in pages."""
        query = dict(request.query_params)
        since, until = parse_int(query, "from", 0, 2**53), parse_int(query, "to", 2**53, 2**53)
        found = [one for one in reversed(self._payments.values()) if since <= one["created_at"] <= until]
        return await self._answer(request, "read", lambda: _page(request, found))

    async def read_payment(self, request: Request) -> Response:
        """One payment."""

        def read() -> Response:
            found = self._payments.get(request.path_params["id"])
            return JSONResponse(found) if found else _error(400, "BAD_REQUEST_ERROR", "The id provided does not exist")

        return await self._answer(request, "read", read)

    async def list_refunds(self, request: Request) -> Response:
        """The refunds of one payment, newest first, in pages."""
        found = list(reversed(self._refunds.get(request.path_params["id"], [])))
        return await self._answer(request, "read", lambda: _page(request, found))

    async def refund(self, request: Request) -> Response:
        """Refund a part of a payment, at most what is left of it."""
        given = await _read_json(request)

        def refund() -> Response:
            payment = self._payments.get(request.path_params["id"])
            if payment is None or payment["status"] not in ("captured", "refunded"):
                return _error(400, "BAD_REQUEST_ERROR", "The payment has not been captured")
            left = payment["amount"] - payment["amount_refunded"]
            amount = given.get("amount", left)
            if left == 0:
                return _error(400, "BAD_REQUEST_ERROR", "The payment has been fully refunded already")
            if not isinstance(amount, int) or not 0 < amount <= left:
                return _error(400, "BAD_REQUEST_ERROR", "The total refund amount is greater than the payment amount")
            payment["amount_refunded"] += amount
            payment["status"] = "refunded" if amount == left else "captured"
            made = {
                "id": f"rfnd_{secrets.token_hex(7)}", "entity": "refund", "amount": amount, "currency": payment["currency"],
                "payment_id": payment["id"], "notes": given.get("notes") or [], "receipt": given.get("receipt"),
                "status": "processed", "created_at": int(time.time()),
            }  # fmt: skip
            self._refunds.setdefault(payment["id"], []).append(made)
            self.inbox.add(payment["id"], f"refunded {amount} {payment['currency']}", "", made)
            return JSONResponse(made)

        return await self._answer(request, "refund", refund)

    async def _answer(self, request: Request, operation: str, execute: Callable[[], Response]) -> Response:
        given = basic_credentials(request) or ("", "")
        if not hmac.compare_digest(":".join(given).encode(), f"{KEY_ID}:{self._key_secret}".encode()):
            return _error(401, "BAD_REQUEST_ERROR", "Authentication failed")
        return await self.accept(operation, execute)


async def _read_json(request: Request) -> dict[str, Any]:
    try:
        found = json.loads(await read_body(request) or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _page(request: Request, found: list[dict[str, Any]]) -> Response:
    query = dict(request.query_params)
    count, skip = parse_int(query, "count", 10, PAGE_LIMIT), parse_int(query, "skip", 0, 10**9)
    items = found[skip : skip + count]
    return JSONResponse({"entity": "collection", "count": len(items), "items": items})
