"""The catcher's web side: pages to read mail, switches for faults, and a small JSON API; gateways beside it. It runs no script.

Whatever a message holds is hostile here: templates escape all of it, HTML parts are shown in a frame that may do
nothing, and the pages' Content-Security-Policy, which that frame inherits, lets nothing load from outside.
"""

from __future__ import annotations

from collections.abc import Sequence

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.routing import Route
from starlette.types import ASGIApp

from sandbox.gateways.dropping import DropConnectionMiddleware
from sandbox.gateways.push import PushGateway
from sandbox.gateways.sms import SmsGateway
from sandbox.gateways.stripe import StripeGateway
from sandbox.mail.api import ApiHandlers
from sandbox.mail.faults import MailFaults
from sandbox.mail.mailbox import Mailbox
from sandbox.mail.pages import PageHandlers
from sandbox.mail.security import SameOriginMiddleware, SecurityHeadersMiddleware
from sandbox.webhooks.web import WebhookHandlers

LOCAL_HOSTS = ("localhost", "127.0.0.1")


def build_app(mailbox: Mailbox, faults: MailFaults, hosts: Sequence[str] = ()) -> ASGIApp:
    """The ASGI application over one mailbox and one set of fault rules, with the gateways beside them.

    `hosts` are further names by which it may be asked.
    """
    api, pages = ApiHandlers(mailbox, faults), PageHandlers(mailbox, faults)
    gateways = (SmsGateway(pages.render), PushGateway(pages.render), StripeGateway(pages.render))
    app = Starlette(
        routes=[
            Route("/", pages.inbox),
            Route("/style.css", pages.stylesheet),
            Route("/messages/{id:int}", pages.message),
            Route("/messages/{id:int}/raw", pages.raw),
            Route("/messages/{id:int}/attachments/{place:int}", pages.attachment),
            Route("/switches", pages.faults_page),
            Route("/switches", pages.add_fault_form, methods=["POST"]),
            Route("/switches/clear", pages.clear_faults_form, methods=["POST"]),
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
        ],
        exception_handlers={HTTPException: pages.error},
    )
    return DropConnectionMiddleware(app)
