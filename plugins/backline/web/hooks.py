"""Hooks for providers' delivery and payment events, authenticated by signature and stored before the answer."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from functools import cache
from typing import Annotated

import httpx
from airflow.configuration import conf
from fastapi import APIRouter, Depends, Request, Response

from backline.airflow.connections import connection_password
from backline.delivery_events import mailgun, sendgrid, ses, twilio
from backline.delivery_events.events import DeliveryEvent, record_events, signature_header
from backline.payments.webhook_parsing import PaymentEvent, insert_event, verify_razorpay_event, verify_stripe_event
from backline.settings import settings
from backline.web.bodies import Body
from backline.web.database import Connections, Database
from backline.web.problems import ApiError
from backline.web.roles import public_route
from backline.web.settings import HookSettings
from backline.web.urls import PREFIX, route_path

log = logging.getLogger(__name__)

router = APIRouter(prefix="/hooks", tags=["hooks"])
FETCH_TIMEOUT_SECONDS = 5.0


def hook_settings() -> HookSettings:
    """The hooks' settings; a hook without its setting is disabled."""
    return settings().section(HookSettings)


def fetch(url: str) -> bytes:
    """The content of a URL, without following redirects; 503 if it fails. `ses` has checked that it is Amazon's."""
    try:
        response = httpx.get(url, timeout=FETCH_TIMEOUT_SECONDS, follow_redirects=False).raise_for_status()
    except httpx.HTTPError as exc:
        log.warning("could not fetch a URL of Amazon SNS: %s", type(exc).__name__)
        raise ApiError(503, "A URL in this request cannot be fetched now") from None
    return response.content


@cache
def certificate_cache() -> ses.CertificateCache:
    """Amazon's certificates that this process has fetched."""
    return ses.CertificateCache(fetch)


Hooks = Annotated[HookSettings, Depends(hook_settings)]


@router.post("/ses", **public_route("Delivery events of Amazon SES, by SNS", status=204))
def receive_ses(
    database: Database,
    hooks: Hooks,
    body: Body,
    certificates: Annotated[ses.CertificateCache, Depends(certificate_cache)],
) -> Response:
    """Also confirms the subscription of a topic of `hooks.ses_topic_arns`."""
    _require_enabled(hooks.ses_topic_arns)
    events, confirmation = ses.parse_request(body, hooks.ses_topic_arns, certificates, datetime.now(UTC))
    if confirmation is not None:
        certificates.fetch(confirmation)
        log.info("confirmed the subscription of an SNS topic")
    return _store_delivery_events(database, ses.SOURCE, events)


@router.post("/sendgrid", **public_route("Delivery events of SendGrid", status=204))
def receive_sendgrid(request: Request, database: Database, hooks: Hooks, body: Body) -> Response:
    """The signed event webhook."""
    _require_enabled(hooks.sendgrid_public_key)
    events = sendgrid.parse_request(request.headers, body, hooks.sendgrid_public_key, datetime.now(UTC))
    return _store_delivery_events(database, sendgrid.SOURCE, events)


@router.post("/mailgun", **public_route("A delivery event of Mailgun", status=204))
def receive_mailgun(database: Database, hooks: Hooks, body: Body) -> Response:
    """One event a request."""
    _require_enabled(hooks.mailgun_connection)
    events = mailgun.parse_request(body, connection_password(hooks.mailgun_connection), datetime.now(UTC))
    return _store_delivery_events(database, mailgun.SOURCE, events)


@router.post("/twilio", **public_route("A delivery event of Twilio", status=204))
def receive_twilio(request: Request, database: Database, hooks: Hooks, body: Body) -> Response:
    """The status callback of an SMS."""
    _require_enabled(hooks.twilio_connection)
    signature = signature_header(request.headers, twilio.SIGNATURE_HEADER)
    token = connection_password(hooks.twilio_connection)
    events = twilio.parse_request(_public_url(request), signature, body, token, datetime.now(UTC))
    return _store_delivery_events(database, twilio.SOURCE, events)


@router.post("/stripe", **public_route("A payment event of Stripe", status=204))
def receive_stripe(request: Request, database: Database, hooks: Hooks, body: Body) -> Response:
    """One event a request, of any type."""
    _require_enabled(hooks.stripe_connection)
    secret = connection_password(hooks.stripe_connection)
    return _store_payment_event(database, verify_stripe_event(request.headers, body, secret))


@router.post("/razorpay", **public_route("A payment event of Razorpay", status=204))
def receive_razorpay(request: Request, database: Database, hooks: Hooks, body: Body) -> Response:
    """One event a request, of any type."""
    _require_enabled(hooks.razorpay_connection)
    secret = connection_password(hooks.razorpay_connection)
    event = verify_razorpay_event(request.headers, body, secret, datetime.now(UTC))
    return _store_payment_event(database, event)


def _require_enabled(setting: object) -> None:
    if not setting:
        raise ApiError(404, "This hook is not enabled")


def _store_delivery_events(database: Connections, source: str, events: list[DeliveryEvent]) -> Response:
    if events:
        with database.transaction() as connection:
            new = record_events(connection, source, events)
        log.info("%s sent %d delivery events, %d of them new", source, len(events), new)
    return Response(status_code=204)


def _store_payment_event(database: Connections, event: PaymentEvent) -> Response:
    with database.transaction() as connection:
        is_new = insert_event(connection, event)
    log.info("%s sent %s %s (%s)", event.provider, event.type, event.event_id, "new" if is_new else "known already")
    return Response(status_code=204)


def _public_url(request: Request) -> str:
    """The request's URL at Airflow's public address, which proxies may have changed."""
    query = f"?{request.url.query}" if request.url.query else ""
    return f"{conf.get('api', 'base_url', fallback='').rstrip('/')}{PREFIX}{route_path(request)}{query}"
