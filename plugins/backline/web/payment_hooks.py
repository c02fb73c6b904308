"""Hooks where payment providers tell: kept before it is answered, processed by the job ingest_payment_webhook."""

from __future__ import annotations

import logging
from datetime import UTC, datetime

from fastapi import APIRouter, Request, Response

from backline.airflow.connections import connection_password
from backline.payments.webhook_parsing import PaymentEvent, insert_event, verify_razorpay_event, verify_stripe_event
from backline.web.database import Connections
from backline.web.hooks import Body, Database, Hooks, require_enabled
from backline.web.roles import public

log = logging.getLogger(__name__)

router = APIRouter(prefix="/hooks", tags=["hooks"])


@router.post("/stripe", status_code=204, summary="Stripe tells of payments", **public())
def receive_stripe(request: Request, database: Database, hooks: Hooks, body: Body) -> Response:
    """One event a request, of any type."""
    require_enabled(hooks.stripe_connection)
    return _store_payment_event(
        database, verify_stripe_event(request.headers, body, connection_password(hooks.stripe_connection))
    )


@router.post("/razorpay", status_code=204, summary="Razorpay tells of payments", **public())
def receive_razorpay(request: Request, database: Database, hooks: Hooks, body: Body) -> Response:
    """One event a request, of any type."""
    require_enabled(hooks.razorpay_connection)
    secret = connection_password(hooks.razorpay_connection)
    return _store_payment_event(database, verify_razorpay_event(request.headers, body, secret, datetime.now(UTC)))


def _store_payment_event(database: Connections, event: PaymentEvent) -> Response:
    with database.transaction() as connection:
        is_new = insert_event(connection, event)
    log.info("%s told %s %s, which is %s", event.provider, event.type, event.event_id, "new" if is_new else "known")
    return Response(status_code=204)
