-- Payments of the app's orders, their attempts and refunds, and the providers' events. The tables are the app's: point these
-- statements at yours.

-- name: order_lock
-- The order to be paid, locked until the transaction ends: one transaction at a time changes its payment.
-- `billing_provider`: the provider that charges the order's subscription itself; null if we charge it.
SELECT o.id, o.number, o.state::text AS state, o.currency, o.total_minor,
    (SELECT s.provider::text FROM app.subscriptions AS s WHERE s.id = o.subscription_id) AS billing_provider
FROM app.orders AS o WHERE o.id = %(order_id)s::bigint FOR UPDATE OF o;

-- name: payment_lock
-- The order's payment: the captured one, else the latest that is not abandoned, else the latest. `open_attempt`: the attempt
-- without a recorded result.
SELECT p.id, p.order_id, p.provider::text AS provider, p.provider_reference, p.idempotency_key, p.method_reference,
    p.customer_reference, p.amount_minor, p.currency, p.state::text AS state, p.attempts,
    p.decline_kind::text AS decline_kind, p.decline_code, p.failed_at, p.next_attempt_at,
    (SELECT max(t.number) FROM app.payment_attempts AS t WHERE t.payment_id = p.id AND t.ended_at IS NULL) AS open_attempt
FROM app.payments AS p WHERE p.order_id = %(order_id)s::bigint
ORDER BY p.state = 'captured' DESC, p.state = 'abandoned', p.id DESC
LIMIT 1 FOR UPDATE OF p;

-- name: payment_insert
-- A payment for an order, by the method of the order's last payment, else of the customer's last captured one. Its key is the
-- order's number; a second payment's key also has its position.
INSERT INTO app.payments (order_id, provider, idempotency_key, method_reference, customer_reference, amount_minor, currency)
SELECT o.id, %(provider)s::text::app.payment_provider, 'order-' || o.number
        || (SELECT CASE WHEN count(*) > 0 THEN '-' || count(*) + 1 ELSE '' END FROM app.payments WHERE order_id = o.id),
    last.method_reference, last.customer_reference, o.total_minor, o.currency
FROM app.orders AS o LEFT JOIN LATERAL (
    SELECT p.method_reference, p.customer_reference FROM app.payments AS p JOIN app.orders AS paid ON paid.id = p.order_id
    WHERE paid.user_id = o.user_id AND p.provider = %(provider)s::text::app.payment_provider
      AND (p.state = 'captured' OR p.order_id = o.id) AND p.method_reference IS NOT NULL
    ORDER BY p.order_id = o.id DESC, p.captured_at DESC NULLS LAST, p.id DESC LIMIT 1) AS last ON true
WHERE o.id = %(order_id)s::bigint
ON CONFLICT (idempotency_key) DO NOTHING;

-- name: attempt_start
-- Starts the next attempt of a payment: recorded before the provider is called.
WITH counted AS (
    UPDATE app.payments SET attempts = attempts + 1, state = 'pending', next_attempt_at = NULL, abandoned_at = NULL
    WHERE id = %(payment_id)s::bigint
    RETURNING id, attempts
)
INSERT INTO app.payment_attempts (payment_id, number) SELECT id, attempts FROM counted RETURNING number;

-- name: attempt_finish
-- Ends an attempt that captured nothing.
UPDATE app.payment_attempts SET ended_at = clock_timestamp(), outcome = %(outcome)s::text::app.attempt_outcome,
    decline_kind = %(decline_kind)s::text::app.decline_kind, decline_code = %(decline_code)s::text
WHERE payment_id = %(payment_id)s::bigint AND number = %(number)s::smallint AND ended_at IS NULL;

-- name: payment_reference_set
-- Stores the provider's id of a payment.
UPDATE app.payments SET provider_reference = %(reference)s::text
WHERE id = %(payment_id)s::bigint AND provider_reference IS DISTINCT FROM %(reference)s::text AND state <> 'captured';

-- name: payment_capture
-- Marks attempt and payment captured and the order paid, all at the same time. No row if the order is not reserved.
WITH ended AS (
    UPDATE app.payment_attempts SET ended_at = clock_timestamp(), outcome = 'captured'
    WHERE payment_id = %(payment_id)s::bigint AND number = %(number)s::smallint AND ended_at IS NULL
    RETURNING payment_id, ended_at
), captured AS (
    UPDATE app.payments AS p SET state = 'captured', captured_at = ended.ended_at, provider_reference = %(reference)s::text,
        next_attempt_at = NULL, abandoned_at = NULL
    FROM ended WHERE p.id = ended.payment_id
    RETURNING p.order_id, p.captured_at
)
UPDATE app.orders AS o SET state = 'paid', paid_at = captured.captured_at
FROM captured WHERE o.id = captured.order_id AND o.state = 'reserved'
RETURNING o.id;

-- name: attempts_declined
-- When the attempts of a payment were declined, the first one first.
SELECT ended_at FROM app.payment_attempts WHERE payment_id = %(payment_id)s::bigint AND outcome = 'declined' ORDER BY number;

-- name: payment_decline
-- Marks a payment declined: the next attempt is due at `next_attempt_at`, now if that is past; it is abandoned if that is null.
UPDATE app.payments AS p SET
    state = CASE WHEN %(next_attempt_at)s::timestamptz IS NULL THEN 'abandoned' ELSE 'failed' END::app.payment_state,
    provider_reference = coalesce(%(reference)s::text, p.provider_reference), failed_at = at.now,
    decline_kind = %(decline_kind)s::text::app.decline_kind, decline_code = %(decline_code)s::text,
    next_attempt_at = CASE WHEN %(next_attempt_at)s::timestamptz IS NOT NULL
        THEN greatest(%(next_attempt_at)s::timestamptz, at.now) END,
    abandoned_at = CASE WHEN %(next_attempt_at)s::timestamptz IS NULL THEN at.now END
FROM (SELECT clock_timestamp() AS now) AS at
WHERE p.id = %(payment_id)s::bigint AND p.state NOT IN ('captured', 'abandoned')
RETURNING p.next_attempt_at;

-- name: payment_needs_action
-- Marks a payment as waiting for the customer to act.
UPDATE app.payments SET state = 'requires_action', provider_reference = coalesce(%(reference)s::text, provider_reference),
    failed_at = clock_timestamp(), decline_kind = 'needs_action', decline_code = %(decline_code)s::text, next_attempt_at = NULL
WHERE id = %(payment_id)s::bigint AND state NOT IN ('captured', 'abandoned');

-- name: payment_notice_get
-- A payment and its customer, for a message about it.
SELECT p.order_id, p.state::text AS state, p.attempts, p.amount_minor, p.currency, p.captured_at,
    (p.next_attempt_at AT TIME ZONE u.zone)::date AS retry_on, o.number AS order_number, u.email, u.name, u.language,
    u.zone, u.state = 'deactivated' AS customer_is_deactivated
FROM app.payments AS p JOIN app.orders AS o ON o.id = p.order_id JOIN app.users AS u ON u.id = o.user_id
WHERE p.id = %(payment_id)s::bigint;

-- name: retry_due
-- Payments above the id `after_id` whose next attempt is due. `approved`: the decision about the attempt, null if there is none;
-- `approval_pending`: it was requested and has not expired.
SELECT p.id, p.order_id, o.number AS order_number, p.attempts + 1 AS number, p.amount_minor, p.currency::text AS currency,
    p.decline_code, a.approved, coalesce(a.approved IS NULL AND a.expires_at >= clock_timestamp(), false) AS approval_pending
FROM app.payments AS p JOIN app.orders AS o ON o.id = p.order_id
LEFT JOIN backline.payment_approval AS a ON a.payment_id = p.id AND a.attempt_number = p.attempts + 1
WHERE p.id > %(after_id)s::bigint AND p.next_attempt_at <= clock_timestamp()
  AND p.provider = %(provider)s::text::app.payment_provider AND o.state = 'reserved'
ORDER BY p.id LIMIT %(batch_limit)s::integer;

-- name: attempts_orphaned
-- Payments above the id `after_id` with an attempt that has had no result for so many seconds: its process died.
SELECT p.id, p.order_id, o.number AS order_number, max(t.number) AS number
FROM app.payment_attempts AS t JOIN app.payments AS p ON p.id = t.payment_id JOIN app.orders AS o ON o.id = p.order_id
WHERE p.id > %(after_id)s::bigint AND t.ended_at IS NULL
  AND t.started_at < clock_timestamp() - %(orphaned_after_seconds)s::float8 * interval '1 second'
  AND p.provider = %(provider)s::text::app.payment_provider
GROUP BY p.id, o.id ORDER BY p.id LIMIT %(batch_limit)s::integer;

-- name: approval_request
-- Records the request for a decision about an attempt; no row if one is pending or was decided.
INSERT INTO backline.payment_approval AS a (payment_id, attempt_number, expires_at)
VALUES (%(payment_id)s::bigint, %(number)s::smallint, clock_timestamp() + %(hours)s::float8 * interval '1 hour')
ON CONFLICT (payment_id, attempt_number) DO UPDATE SET requested_at = clock_timestamp(), expires_at = excluded.expires_at
    WHERE a.approved IS NULL AND a.expires_at < clock_timestamp()
RETURNING attempt_number;

-- name: approval_record
-- Records a decision, unless there is one.
UPDATE backline.payment_approval SET approved = %(approved)s::boolean, decided_by = %(decided_by)s::text,
    decided_at = clock_timestamp()
WHERE payment_id = %(payment_id)s::bigint AND attempt_number = %(number)s::smallint AND approved IS NULL;

-- name: approval_get
-- The decision about an attempt.
SELECT approved FROM backline.payment_approval
WHERE payment_id = %(payment_id)s::bigint AND attempt_number = %(number)s::smallint AND approved IS NOT NULL;

-- name: refund_start
-- A refund of all of a captured payment that is neither refunded nor about to be: the one that was started, or a new one.
-- Recorded before the provider is called.
WITH left_over AS (
    SELECT p.id, p.currency, p.amount_minor - p.refunded_minor - coalesce((
        SELECT sum(r.amount_minor) FROM app.refunds AS r
        WHERE r.payment_id = p.id AND r.state = 'pending' AND r.provider_reference IS NOT NULL), 0)::bigint AS amount_minor
    FROM app.payments AS p WHERE p.id = %(payment_id)s::bigint AND p.state = 'captured'
), started AS (
    UPDATE app.refunds AS r SET amount_minor = left_over.amount_minor FROM left_over
    WHERE r.id = (SELECT min(s.id) FROM app.refunds AS s WHERE s.payment_id = %(payment_id)s::bigint
                  AND s.state = 'pending' AND s.provider_reference IS NULL)
      AND left_over.amount_minor > 0
    RETURNING r.id, r.amount_minor
), created AS (
    INSERT INTO app.refunds (payment_id, amount_minor, currency, reason)
    SELECT id, amount_minor, currency, %(reason)s::text FROM left_over
    WHERE amount_minor > 0 AND NOT EXISTS (SELECT FROM started)
    RETURNING id, amount_minor
)
SELECT id, amount_minor FROM started UNION ALL SELECT id, amount_minor FROM created;

-- name: refund_record
-- Records a refund as the provider has it: by its id there, or by our own id `refund_id`. No row if nothing changes.
WITH known AS (
    SELECT r.id FROM app.refunds AS r
    WHERE r.payment_id = %(payment_id)s::bigint
      AND (r.provider_reference = %(reference)s::text OR r.provider_reference IS NULL AND r.id = %(refund_id)s::bigint)
    ORDER BY r.provider_reference IS NULL LIMIT 1
), updated AS (
    UPDATE app.refunds AS r SET provider_reference = %(reference)s::text, amount_minor = %(amount_minor)s::bigint,
        state = %(state)s::text::app.refund_state,
        ended_at = CASE WHEN %(state)s::text <> 'pending' THEN greatest(clock_timestamp(), r.created_at) END
    FROM known
    WHERE r.id = known.id AND (r.provider_reference, r.amount_minor, r.state::text)
        IS DISTINCT FROM (%(reference)s::text, %(amount_minor)s::bigint, %(state)s::text)
      -- An older event does not make a refund that has ended pending again.
      AND (%(state)s::text <> 'pending' OR r.state = 'pending')
    RETURNING r.id
), added AS (
    INSERT INTO app.refunds (payment_id, provider_reference, amount_minor, currency, reason, state, created_at, ended_at)
    SELECT p.id, %(reference)s::text, %(amount_minor)s::bigint, p.currency, %(reason)s::text,
        %(state)s::text::app.refund_state, at.now, CASE WHEN %(state)s::text <> 'pending' THEN at.now END
    FROM app.payments AS p, (SELECT clock_timestamp() AS now) AS at
    WHERE p.id = %(payment_id)s::bigint AND NOT EXISTS (SELECT FROM known)
    RETURNING id
)
SELECT id FROM updated UNION ALL SELECT id FROM added;

-- name: refund_total
-- Sets what is refunded of a payment to the sum of its refunds; no row if that is more than was captured. The order and its
-- stock change in orders.sql.
UPDATE app.payments AS p SET refunded_minor = done.minor
FROM (SELECT coalesce(sum(r.amount_minor), 0)::bigint AS minor FROM app.refunds AS r
      WHERE r.payment_id = %(payment_id)s::bigint AND r.state = 'succeeded') AS done
WHERE p.id = %(payment_id)s::bigint AND done.minor <= p.amount_minor
RETURNING p.id;

-- name: refund_fail
-- Marks a refund failed that the provider has refused.
UPDATE app.refunds SET state = 'failed', ended_at = greatest(clock_timestamp(), created_at)
WHERE id = %(refund_id)s::bigint AND state = 'pending';

-- name: dispute_record
-- Records a dispute in its latest state; no row if nothing changes. A dispute that is won or lost stays so.
INSERT INTO app.disputes AS d (payment_id, provider_reference, amount_minor, currency, reason, state, opened_at, ended_at)
SELECT %(payment_id)s::bigint, %(reference)s::text, %(amount_minor)s::bigint, %(currency)s::text, %(reason)s::text,
    %(state)s::text::app.dispute_state, at.now, CASE WHEN %(state)s::text <> 'open' THEN at.now END
FROM (SELECT clock_timestamp() AS now) AS at
ON CONFLICT (provider_reference) DO UPDATE SET state = excluded.state, ended_at = greatest(excluded.ended_at, d.opened_at)
    WHERE d.state = 'open' AND excluded.state <> 'open'
RETURNING d.id;

-- name: left_to_refund
-- What is not refunded of a payment, in minor units.
SELECT p.amount_minor - p.refunded_minor AS minor FROM app.payments AS p WHERE p.id = %(payment_id)s::bigint;

-- name: event_insert
-- Stores a provider's event; no row if it is a duplicate.
INSERT INTO app.payment_events (provider, event_id, type, occurred_at, body)
VALUES (%(provider)s::text::app.payment_provider, %(event_id)s::text, %(type)s::text, %(occurred_at)s::timestamptz,
    %(body)s::jsonb)
ON CONFLICT (provider, event_id) DO NOTHING
RETURNING id;

-- name: event_is_waiting
-- Whether there is an event that no run has attempted to process.
SELECT EXISTS (SELECT 1 FROM app.payment_events WHERE processed_at IS NULL AND problem IS NULL) AS is_new;

-- name: event_list_waiting
-- The events after a position that are not processed yet, in the order in which they occurred.
SELECT id, provider::text AS provider, event_id, type, occurred_at, received_at, body FROM app.payment_events
WHERE processed_at IS NULL AND (occurred_at, id) > (%(occurred_at)s::timestamptz, %(id)s::bigint)
ORDER BY occurred_at, id LIMIT %(batch_limit)s::integer;

-- name: event_list_of_payment
-- The events of a payment that are not processed yet, in the order in which they occurred: by its id at the provider or by our key.
SELECT e.id, e.provider::text AS provider, e.event_id, e.type, e.occurred_at, e.received_at, e.body
FROM app.payment_events AS e JOIN app.payments AS p ON p.provider = e.provider
WHERE p.order_id = %(order_id)s::bigint AND e.processed_at IS NULL
  AND (p.idempotency_key IN (e.body #>> '{data,object,metadata,backline_payment}',
                             e.body #>> '{payload,payment,entity,notes,backline_payment}')
       OR p.provider_reference IN (e.body #>> '{data,object,id}', e.body #>> '{data,object,payment_intent}',
                                   e.body #>> '{payload,payment,entity,id}'))
ORDER BY e.occurred_at, e.id LIMIT %(batch_limit)s::integer;

-- name: capture_waiting
-- The first event that captured a payment and is not processed yet.
SELECT e.event_id, e.problem FROM app.payment_events AS e
WHERE e.processed_at IS NULL AND e.provider = %(provider)s::text::app.payment_provider
  AND e.type IN ('payment_intent.succeeded', 'payment.captured', 'subscription.charged')
  AND (%(key)s::text IN (e.body #>> '{data,object,metadata,backline_payment}',
                         e.body #>> '{payload,payment,entity,notes,backline_payment}')
       OR %(reference)s::text IN (e.body #>> '{data,object,id}', e.body #>> '{payload,payment,entity,id}'))
ORDER BY e.occurred_at, e.id LIMIT 1;

-- name: event_dismiss
-- Marks events processed whose dead letter was discarded.
UPDATE app.payment_events AS e SET processed_at = clock_timestamp()
FROM backline.dead_letter AS d
WHERE d.kind = 'item' AND d.name = %(job)s::text AND d.state = 'discarded'
  AND d.item_key = e.provider::text || ' ' || e.event_id AND e.processed_at IS NULL;

-- name: event_claim
-- Locks an event until the transaction ends; no row if another transaction has it, or if it is processed.
SELECT id FROM app.payment_events WHERE id = %(id)s::bigint AND processed_at IS NULL FOR UPDATE SKIP LOCKED;

-- name: event_finish
-- Marks an event processed; `payment_id` is the payment that it is about, if any.
UPDATE app.payment_events SET processed_at = clock_timestamp(), problem = NULL,
    payment_id = coalesce(%(payment_id)s::bigint, payment_id)
WHERE id = %(id)s::bigint;

-- name: event_set_problem
-- Stores why an event could not be processed.
UPDATE app.payment_events SET problem = %(problem)s::text WHERE id = %(id)s::bigint AND processed_at IS NULL;

-- name: event_payment_find
-- The payment of an event, by the provider's id or by our key.
SELECT id, order_id FROM app.payments
WHERE provider = %(provider)s::text::app.payment_provider
  AND (provider_reference = %(reference)s::text OR idempotency_key = %(key)s::text)
ORDER BY provider_reference IS NOT DISTINCT FROM %(reference)s::text DESC LIMIT 1;

-- name: charged_subscription_find
-- The subscription that a provider has charged, its next cycle, and its order that waits for payment.
SELECT s.id, s.state::text AS state, s.next_on, s.zone::text AS zone,
    s.retry_on, s.next_on - (%(at)s::timestamptz AT TIME ZONE s.zone)::date AS days_ahead,
    (SELECT o.id FROM app.orders AS o WHERE o.subscription_id = s.id AND o.state IN ('pending', 'reserved')
     ORDER BY o.cycle_on LIMIT 1) AS order_id
FROM app.subscriptions AS s
WHERE s.provider = %(provider)s::text::app.payment_provider AND s.provider_reference = %(reference)s::text
FOR NO KEY UPDATE;

-- name: payment_abandon
-- Abandons a declined payment that has had so many attempts.
UPDATE app.payments SET state = 'abandoned', abandoned_at = clock_timestamp(), next_attempt_at = NULL
WHERE id = %(payment_id)s::bigint AND state = 'failed' AND attempts = %(attempts)s::smallint;
