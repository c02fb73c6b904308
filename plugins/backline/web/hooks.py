"""Hooks: where providers tell of deliveries. Each request proves by its signature who sends it, and is kept before it is answered."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Annotated

import httpx
from airflow.configuration import conf
from fastapi import APIRouter, Depends, Request, Response

from backline.airflow.connections import connection_password
from backline.delivery_events import mailgun, sendgrid, ses, twilio
from backline.delivery_events.events import DeliveryEvent, record_events
from backline.settings import settings
from backline.web.database import Connections, connections
from backline.web.problems import ApiError
from backline.web.roles import public
from backline.web.settings import HookSettings
from backline.web.urls import PREFIX, route_path

log = logging.getLogger(__name__)

router = APIRouter(prefix="/hooks", tags=["hooks"])
FETCH_TIMEOUT_SECONDS = 5.0


async def raw_body(request: Request) -> bytes:
    """The body as it came: signatures are over its very bytes."""
    return await request.body()


def hook_settings() -> HookSettings:
    """Which hooks are open."""
    return settings().section(HookSettings)


def fetch(url: str) -> bytes:
    """What is at a URL, following no redirect; 503 if it cannot be had. `ses` has made sure that it is Amazon's."""
    try:
        answer = httpx.get(url, timeout=FETCH_TIMEOUT_SECONDS, follow_redirects=False).raise_for_status()
    except httpx.HTTPError as exc:
        log.warning("what Amazon SNS points to cannot be had: %s", type(exc).__name__)
        raise ApiError(503, "What this points to cannot be had now") from None
    return answer.content


class SnsClient:
    """What is fetched of Amazon's: certificates, each once, and confirmations of subscriptions."""

    def __init__(self, fetch: ses.Fetch) -> None:
        self.fetch = fetch
        self.certificates = ses.CertificateCache(fetch)


_sns_client = SnsClient(fetch)


def sns_client() -> SnsClient:
    """The process's own."""
    return _sns_client


Body = Annotated[bytes, Depends(raw_body)]
Database = Annotated[Connections, Depends(connections)]
Hooks = Annotated[HookSettings, Depends(hook_settings)]


@router.post("/ses", status_code=204, summary="Amazon SES tells, by SNS", **public())
def receive_ses(
    database: Database, hooks: Hooks, body: Body, far: Annotated[SnsClient, Depends(sns_client)]
) -> Response:
    """Confirms the subscription of a topic of `hooks.ses_topic_arns` when it is asked to."""
    require_enabled(hooks.ses_topic_arns)
    events, confirmation = ses.parse_request(body, hooks.ses_topic_arns, far.certificates, datetime.now(UTC))
    if confirmation is not None:
        far.fetch(confirmation)
        log.info("confirmed the subscription of an SNS topic")
    return _store_delivery_events(database, ses.SOURCE, events)


@router.post("/sendgrid", status_code=204, summary="SendGrid tells", **public())
def receive_sendgrid(request: Request, database: Database, hooks: Hooks, body: Body) -> Response:
    """The signed event webhook."""
    require_enabled(hooks.sendgrid_public_key)
    events = sendgrid.parse_request(request.headers, body, hooks.sendgrid_public_key, datetime.now(UTC))
    return _store_delivery_events(database, sendgrid.SOURCE, events)


@router.post("/mailgun", status_code=204, summary="Mailgun tells", **public())
def receive_mailgun(database: Database, hooks: Hooks, body: Body) -> Response:
    """One event a request."""
    require_enabled(hooks.mailgun_connection)
    events = mailgun.parse_request(body, connection_password(hooks.mailgun_connection), datetime.now(UTC))
    return _store_delivery_events(database, mailgun.SOURCE, events)


@router.post("/twilio", status_code=204, summary="Twilio tells", **public())
def receive_twilio(request: Request, database: Database, hooks: Hooks, body: Body) -> Response:
    """The status callback of an SMS."""
    require_enabled(hooks.twilio_connection)
    signature, token = request.headers.get(twilio.SIGNATURE_HEADER, ""), connection_password(hooks.twilio_connection)
    events = twilio.parse_request(_public_url(request), signature, body, token, datetime.now(UTC))
    return _store_delivery_events(database, twilio.SOURCE, events)


def require_enabled(setting: object) -> None:
    """404 for a hook that no setting opens."""
    if not setting:
        raise ApiError(404, "This hook is not open")


def _store_delivery_events(database: Connections, source: str, events: list[DeliveryEvent]) -> Response:
    if events:
        with database.transaction() as connection:
            new = record_events(connection, source, events)
        log.info("%s told %d delivery events, %d of them new", source, len(events), new)
    return Response(status_code=204)


def _public_url(request: Request) -> str:
    """What was asked for, at the address that Airflow is known by to the world: proxies may have changed it."""
    query = f"?{request.url.query}" if request.url.query else ""
    return f"{conf.get('api', 'base_url', fallback='').rstrip('/')}{PREFIX}{route_path(request)}{query}"
