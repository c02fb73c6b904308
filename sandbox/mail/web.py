"""The sandbox's web application: mail pages, fault injection, a small JSON API, and the gateways. It runs no script.

The content of messages is treated as hostile: templates escape it, HTML parts are shown in a sandboxed frame, and the
pages' Content-Security-Policy, which the frame inherits, blocks everything from outside.
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.routing import Route
from starlette.types import ASGIApp

from sandbox.gateways.faults import DropConnectionMiddleware
from sandbox.gateways.push import PushGateway
from sandbox.gateways.razorpay import RazorpayGateway
from sandbox.gateways.sms import SmsGateway
from sandbox.gateways.stripe import StripeGateway
from sandbox.mail.api import ApiHandlers
from sandbox.mail.faults import MailFaults
from sandbox.mail.mailbox import Mailbox
from sandbox.mail.pages import PageHandlers
from sandbox.mail.security import LoginMiddleware, SameOriginMiddleware, SecurityHeadersMiddleware
from sandbox.webhooks.web import WebhookHandlers

LOCAL_HOSTS = ("localhost", "127.0.0.1")


def build_app(mailbox: Mailbox, faults: MailFaults, hosts: Sequence[str] = (), password: str | None = None) -> ASGIApp:
    """Build the ASGI application; `hosts` are allowed Host headers besides localhost. Without a password it is open."""
    api, pages = ApiHandlers(mailbox, faults), PageHandlers(mailbox, faults)
    stripe = StripeGateway(pages.render, f"sk_test_{password or 'sandbox'}")
    razorpay = RazorpayGateway(pages.render, password or "sandbox")
    gateways = (SmsGateway(pages.render), PushGateway(pages.render), stripe, razorpay)
    app = Starlette(
        routes=[
            Route("/", pages.inbox),
            Route("/style.css", pages.stylesheet),
            Route("/messages/{id:int}", pages.message),
            Route("/messages/{id:int}/raw", pages.raw),
            Route("/messages/{id:int}/attachments/{index:int}", pages.attachment),
            Route("/fault-injection", pages.faults_page),
            Route("/fault-injection", pages.add_fault_form, methods=["POST"]),
            Route("/fault-injection/clear", pages.clear_faults_form, methods=["POST"]),
            Route("/empty", pages.delete_messages_form, methods=["POST"]),
            Route("/livez", api.livez),
            Route("/faults", api.list_faults),
            Route("/faults", api.replace_faults, methods=["PUT"]),
            Route("/faults", api.clear_faults, methods=["DELETE"]),
            Route("/api/messages", api.messages),
            Route("/api/messages", api.delete_messages, methods=["DELETE"]),
            Route("/api/messages/{id:int}", api.message),
            Route("/api/count", api.count),
            *(route for gateway in gateways for route in gateway.routes()),
            *WebhookHandlers().routes(),
        ],
        middleware=[
            Middleware(SecurityHeadersMiddleware),
            Middleware(TrustedHostMiddleware, allowed_hosts=[*LOCAL_HOSTS, *hosts], www_redirect=False),
            Middleware(SameOriginMiddleware),
            *([Middleware(LoginMiddleware, password=password)] if password else []),
        ],
        exception_handlers={HTTPException: pages.error},
    )
    return DropConnectionMiddleware(app)
