"""Hooks where payment providers tell: kept before it is answered, processed by the job ingest_payment_webhook."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from fastapi import APIRouter, Request, Response

from backline.airflow.connections import password_of
from backline.payments import razorpay_events, stripe_events
from backline.payments.events import PaymentEvent, keep
from backline.web.database import Connections
from backline.web.hooks import Body, Database, Hooks, check_open
from backline.web.roles import public

log = logging.getLogger(__name__)

router = APIRouter(prefix="/hooks", tags=["hooks"])


@router.post("/stripe", status_code=204, summary="Stripe tells of payments", **public())
def from_stripe(request: Request, database: Database, hooks: Hooks, body: Body) -> Response:
    """One event a request, of any type."""
    check_open(hooks.stripe_connection)
    return _keep(database, stripe_events.read(request.headers, body, password_of(hooks.stripe_connection)))


@router.post("/razorpay", status_code=204, summary="Razorpay tells of payments", **public())
def from_razorpay(request: Request, database: Database, hooks: Hooks, body: Body) -> Response:
    """One event a request, of any type."""
    check_open(hooks.razorpay_connection)
    secret = password_of(hooks.razorpay_connection)
    return _keep(database, razorpay_events.read(request.headers, body, secret, datetime.now(UTC)))


def _keep(database: Connections, event: PaymentEvent) -> Response:
    with database.transaction() as connection:
        is_new = keep(connection, event)
    log.info("%s told %s %s, which is %s", event.provider, event.type, event.event_id, "new" if is_new else "known")
    return Response(status_code=204)
