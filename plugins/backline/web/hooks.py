"""Hooks: where providers tell of deliveries. Each request proves by its signature who sends it, and is kept before it is answered."""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from typing import Annotated

import httpx
from airflow.configuration import conf
from fastapi import APIRouter, Depends, Request, Response

from backline.airflow.connections import password_of
from backline.delivery_events import mailgun, sendgrid, ses, twilio
from backline.delivery_events.events import DeliveryEvent, keep
from backline.settings import HookSettings, settings
from backline.web.database import Connections, connections
from backline.web.problems import Refused
from backline.web.roles import public
from backline.web.urls import PREFIX, route_path

log = logging.getLogger(__name__)

router = APIRouter(prefix="/hooks", tags=["hooks"])
FETCH_SECONDS = 5.0


async def raw_body(request: Request) -> bytes:
    """The body as it came: signatures are over its very bytes."""
    return await request.body()


def hook_settings() -> HookSettings:
    """Which hooks are open."""
    return settings().hooks


def fetch(url: str) -> bytes:
    """What is at a URL, following no redirect; 503 if it cannot be had. `ses` has made sure that it is Amazon's."""
    try:
        answer = httpx.get(url, timeout=FETCH_SECONDS, follow_redirects=False).raise_for_status()
    except httpx.HTTPError as exc:
        log.warning("what Amazon SNS points to cannot be had: %s", type(exc).__name__)
        raise Refused(503, "What this points to cannot be had now") from None
    return answer.content


class Amazon:
    """What is fetched of Amazon's: certificates, each once, and confirmations of subscriptions."""

    def __init__(self, fetch: ses.Fetch) -> None:
        self.fetch = fetch
        self.certificates = ses.Certificates(fetch)


_amazon = Amazon(fetch)


def amazon() -> Amazon:
    """The process's own."""
    return _amazon


Body = Annotated[bytes, Depends(raw_body)]
Database = Annotated[Connections, Depends(connections)]
Hooks = Annotated[HookSettings, Depends(hook_settings)]


@router.post("/ses", status_code=204, summary="Amazon SES tells, by SNS", **public())
def from_ses(database: Database, hooks: Hooks, body: Body, far: Annotated[Amazon, Depends(amazon)]) -> Response:
    """Confirms the subscription of a topic of `hooks.ses_topics` when it is asked to."""
    check_open(hooks.ses_topics)
    events, confirmation = ses.read(body, hooks.ses_topics, far.certificates, datetime.now(UTC))
    if confirmation is not None:
        far.fetch(confirmation)
        log.info("confirmed the subscription of an SNS topic")
    return _keep(database, ses.SOURCE, events)


@router.post("/sendgrid", status_code=204, summary="SendGrid tells", **public())
def from_sendgrid(request: Request, database: Database, hooks: Hooks, body: Body) -> Response:
    """The signed event webhook."""
    check_open(hooks.sendgrid_public_key)
    events = sendgrid.read(request.headers, body, hooks.sendgrid_public_key, datetime.now(UTC))
    return _keep(database, sendgrid.SOURCE, events)


@router.post("/mailgun", status_code=204, summary="Mailgun tells", **public())
def from_mailgun(database: Database, hooks: Hooks, body: Body) -> Response:
    """One event a request."""
    check_open(hooks.mailgun_connection)
    events = mailgun.read(body, password_of(hooks.mailgun_connection), datetime.now(UTC))
    return _keep(database, mailgun.SOURCE, events)


@router.post("/twilio", status_code=204, summary="Twilio tells", **public())
def from_twilio(request: Request, database: Database, hooks: Hooks, body: Body) -> Response:
    """The status callback of an SMS."""
    check_open(hooks.twilio_connection)
    signature, token = request.headers.get(twilio.SIGNATURE, ""), password_of(hooks.twilio_connection)
    events = twilio.read(_public_url(request), signature, body, token, datetime.now(UTC))
    return _keep(database, twilio.SOURCE, events)


def check_open(setting: object) -> None:
    """404 for a hook that no setting opens."""
    if not setting:
        raise Refused(404, "This hook is not open")


def _keep(database: Connections, source: str, events: list[DeliveryEvent]) -> Response:
    if events:
        with database.transaction() as connection:
            new = keep(connection, source, events)
        log.info("%s told %d delivery events, %d of them new", source, len(events), new)
    return Response(status_code=204)


def _public_url(request: Request) -> str:
    """What was asked for, at the address that Airflow is known by to the world: proxies may have changed it."""
    query = f"?{request.url.query}" if request.url.query else ""
    return f"{conf.get('api', 'base_url', fallback='').rstrip('/')}{PREFIX}{route_path(request)}{query}"
