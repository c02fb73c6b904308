"""Hooks for providers' delivery and payment events, authenticated by signature and stored before the answer."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from functools import cache
from typing import Annotated, Any

import httpx
from airflow.configuration import conf
from fastapi import Depends, Request, Response

from backline.airflow.connections import connection_password
from backline.delivery_events import mailgun, sendgrid, ses, twilio
from backline.delivery_events.events import MAX_SIGNATURE_LENGTH, DeliveryEvent, record_events, signature_header
from backline.payments.webhook_parsing import (
    RAZORPAY_EVENT_ID_HEADER,
    RAZORPAY_SIGNATURE_HEADER,
    STRIPE_SIGNATURE_HEADER,
    PaymentEvent,
    insert_event,
    verify_razorpay_event,
    verify_stripe_event,
)
from backline.web.bodies import Body, checked_router
from backline.web.database import Connections, Database
from backline.web.problems import ApiError
from backline.web.roles import EVENT_BODY_BYTES, SMALL_BODY_BYTES, public_route
from backline.web.settings import HookSettings
from backline.web.urls import PREFIX, route_path

log = logging.getLogger(__name__)

router = checked_router(prefix="/hooks", tags=["hooks"])
FETCH_TIMEOUT_SECONDS = 5.0


async def hook_settings(request: Request) -> HookSettings:
    """The hooks' settings; a hook without its setting is disabled."""
    found: HookSettings = request.app.state.hooks
    return found


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


def _hook(summary: str, enabled_by: str, *headers: str, form: bool = False) -> dict[str, Any]:
    """Arguments of a hook's route; `headers` are those that it reads, and its body is JSON unless it is a form."""
    text = {"type": "string", "minLength": 1, "maxLength": MAX_SIGNATURE_LENGTH, "pattern": "^[ -~]+$"}
    media_type = "application/x-www-form-urlencoded" if form else "application/json"
    return public_route(
        summary, status=204, enabled_by=enabled_by, max_body_bytes=SMALL_BODY_BYTES if form else EVENT_BODY_BYTES,
        parameters=[{"name": name, "in": "header", "required": True, "schema": text} for name in headers],
        requestBody={"required": True, "content": {media_type: {"schema": {"type": "object"} if form else {}}}},
    )  # fmt: skip


Hooks = Annotated[HookSettings, Depends(hook_settings)]


@router.post("/ses", **_hook("Delivery events of Amazon SES, by SNS", "ses_topic_arns"))
def receive_ses(
    database: Database,
    hooks: Hooks,
    body: Body,
    certificates: Annotated[ses.CertificateCache, Depends(certificate_cache)],
) -> Response:
    """Also confirms the subscription of a topic of `hooks.ses_topic_arns`."""
    events, confirmation = ses.parse_request(body, hooks.ses_topic_arns, certificates, datetime.now(UTC))
    if confirmation is not None:
        certificates.fetch(confirmation)
        log.info("confirmed the subscription of an SNS topic")
    return _store_delivery_events(database, ses.SOURCE, events)


@router.post(
    "/sendgrid",
    **_hook("Delivery events of SendGrid", "sendgrid_public_key", sendgrid.SIGNATURE_HEADER, sendgrid.TIMESTAMP_HEADER),
)
def receive_sendgrid(request: Request, database: Database, hooks: Hooks, body: Body) -> Response:
    """The signed event webhook."""
    events = sendgrid.parse_request(request.headers, body, hooks.sendgrid_public_key, datetime.now(UTC))
    return _store_delivery_events(database, sendgrid.SOURCE, events)


@router.post("/mailgun", **_hook("A delivery event of Mailgun", "mailgun_connection"))
def receive_mailgun(database: Database, hooks: Hooks, body: Body) -> Response:
    """One event a request."""
    events = mailgun.parse_request(body, connection_password(hooks.mailgun_connection), datetime.now(UTC))
    return _store_delivery_events(database, mailgun.SOURCE, events)


@router.post("/twilio", **_hook("A delivery event of Twilio", "twilio_connection", twilio.SIGNATURE_HEADER, form=True))
def receive_twilio(request: Request, database: Database, hooks: Hooks, body: Body) -> Response:
    """The status callback of an SMS."""
    signature = signature_header(request.headers, twilio.SIGNATURE_HEADER)
    token = connection_password(hooks.twilio_connection)
    events = twilio.parse_request(_public_url(request), signature, body, token, datetime.now(UTC))
    return _store_delivery_events(database, twilio.SOURCE, events)


@router.post("/stripe", **_hook("A payment event of Stripe", "stripe_connection", STRIPE_SIGNATURE_HEADER))
def receive_stripe(request: Request, database: Database, hooks: Hooks, body: Body) -> Response:
    """One event a request, of any type."""
    secret = connection_password(hooks.stripe_connection)
    return _store_payment_event(database, verify_stripe_event(request.headers, body, secret))


@router.post(
    "/razorpay",
    **_hook("A payment event of Razorpay", "razorpay_connection", RAZORPAY_SIGNATURE_HEADER, RAZORPAY_EVENT_ID_HEADER),
)
def receive_razorpay(request: Request, database: Database, hooks: Hooks, body: Body) -> Response:
    """One event a request, of any type."""
    secret = connection_password(hooks.razorpay_connection)
    event = verify_razorpay_event(request.headers, body, secret, datetime.now(UTC))
    return _store_payment_event(database, event)


def _store_delivery_events(database: Connections, source: str, events: list[DeliveryEvent]) -> Response:
    if events:
        with database.transaction() as connection:
            new = record_events(connection, source, events)
        log.info("%s sent %d delivery events, %d of them new", source, len(events), new)
    return Response(status_code=204)


def _store_payment_event(database: Connections, event: PaymentEvent) -> Response:
    with database.transaction() as connection:
        is_new = insert_event(connection, event)
    log.info("%s sent %r %r (%s)", event.provider, event.type, event.event_id, "new" if is_new else "known already")
    return Response(status_code=204)


def _public_url(request: Request) -> str:
    """The request's URL at Airflow's public address, which proxies may have changed."""
    query = f"?{request.url.query}" if request.url.query else ""
    return f"{conf.get('api', 'base_url', fallback='').rstrip('/')}{PREFIX}{route_path(request)}{query}"
