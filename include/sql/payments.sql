-- Payments of the app's orders, their attempts and refunds, and what providers tell of them. The tables are the app's: point
-- these statements at yours.

-- name: order_lock
-- The order that is to be paid, held until the transaction ends: one at a time works on its payment.
-- `billing_provider`: the provider that charges it by itself, because its subscription is one of the provider's.
SELECT o.id, o.number, o.state::text AS state, o.currency, o.total_minor,
    (SELECT s.provider::text FROM app.subscriptions AS s WHERE s.id = o.subscription_id) AS billing_provider
FROM app.orders AS o WHERE o.id = %(order_id)s::bigint FOR UPDATE OF o;

-- name: payment_lock
-- The order's payment: the one that was captured, else the latest that is not given up, else the latest. `open_attempt` is the try
-- whose end is not known.
SELECT p.id, p.order_id, p.provider::text AS provider, p.provider_reference, p.idempotency_key, p.method_reference,
    p.customer_reference, p.amount_minor, p.refunded_minor, p.currency, p.state::text AS state, p.attempts,
    p.decline_kind::text AS decline_kind, p.decline_code, p.failed_at, p.next_attempt_at,
    (SELECT max(t.number) FROM app.payment_attempts AS t WHERE t.payment_id = p.id AND t.ended_at IS NULL) AS open_attempt
FROM app.payments AS p WHERE p.order_id = %(order_id)s::bigint
ORDER BY p.state = 'captured' DESC, p.state = 'abandoned', p.id DESC
LIMIT 1 FOR UPDATE OF p;

-- name: payment_insert
-- A payment for an order, by the method of its last one, or else the one that its customer paid with last. Its key is made of
-- the order's number, and for a second one of its place.
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
-- The next try of a payment, written down before it is made.
WITH counted AS (
    UPDATE app.payments SET attempts = attempts + 1, state = 'pending', next_attempt_at = NULL, abandoned_at = NULL
    WHERE id = %(payment_id)s::bigint
    RETURNING id, attempts
)
INSERT INTO app.payment_attempts (payment_id, number) SELECT id, attempts FROM counted RETURNING number;

-- name: attempt_finish
-- How a try ended that brought no money.
UPDATE app.payment_attempts SET ended_at = clock_timestamp(), outcome = %(outcome)s::text::app.attempt_outcome,
    decline_kind = %(decline_kind)s::text::app.decline_kind, decline_code = %(decline_code)s::text
WHERE payment_id = %(payment_id)s::bigint AND number = %(number)s::smallint AND ended_at IS NULL;

-- name: payment_reference_set
-- The provider's id of a payment, once it is known.
UPDATE app.payments SET provider_reference = %(reference)s::text
WHERE id = %(payment_id)s::bigint AND provider_reference IS DISTINCT FROM %(reference)s::text AND state <> 'captured';

-- name: payment_capture
-- The money is there: the try, the payment and the order say so with the same time. No row if the order was not waiting for it.
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

-- name: payment_decline
-- A try was declined: the payment is tried again after `retry_delay_hours`, or given up if that is null.
UPDATE app.payments AS p SET
    state = CASE WHEN %(retry_delay_hours)s::float8 IS NULL THEN 'abandoned' ELSE 'failed' END::app.payment_state,
    provider_reference = coalesce(%(reference)s::text, p.provider_reference), failed_at = at.now,
    decline_kind = %(decline_kind)s::text::app.decline_kind, decline_code = %(decline_code)s::text,
    next_attempt_at = at.now + %(retry_delay_hours)s::float8 * interval '1 hour',
    abandoned_at = CASE WHEN %(retry_delay_hours)s::float8 IS NULL THEN at.now END
FROM (SELECT clock_timestamp() AS now) AS at
WHERE p.id = %(payment_id)s::bigint AND p.state NOT IN ('captured', 'abandoned')
RETURNING p.next_attempt_at;

-- name: payment_needs_action
-- The customer has to act before the money can come.
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
-- Payments whose next try is due, those that wait longest first.
SELECT p.id AS payment_id, p.order_id, p.attempts + 1 AS number, o.number AS order_number, p.amount_minor, p.currency,
    p.decline_code, p.failed_at
FROM app.payments AS p JOIN app.orders AS o ON o.id = p.order_id
WHERE p.next_attempt_at <= clock_timestamp() AND p.provider = %(provider)s::text::app.payment_provider AND o.state = 'reserved'
ORDER BY p.next_attempt_at, p.id LIMIT %(batch_limit)s::integer;

-- name: attempts_orphaned
-- Orders with a try whose end has not been known for so many seconds: whoever made it has died.
SELECT DISTINCT p.order_id, t.payment_id, t.number
FROM app.payment_attempts AS t JOIN app.payments AS p ON p.id = t.payment_id
WHERE t.ended_at IS NULL AND t.started_at < clock_timestamp() - %(orphaned_after_seconds)s::float8 * interval '1 second'
  AND p.provider = %(provider)s::text::app.payment_provider
ORDER BY t.payment_id LIMIT %(batch_limit)s::integer;

-- name: approval_request
-- Notes that people are asked about a try; no row if they are being asked, or have answered.
INSERT INTO backline.payment_approval AS a (payment_id, attempt_number, expires_at)
VALUES (%(payment_id)s::bigint, %(number)s::smallint, clock_timestamp() + %(hours)s::float8 * interval '1 hour')
ON CONFLICT (payment_id, attempt_number) DO UPDATE SET requested_at = clock_timestamp(), expires_at = excluded.expires_at
    WHERE a.approved IS NULL AND a.expires_at < clock_timestamp()
RETURNING attempt_number;

-- name: approval_record
-- What was answered, and by whom.
UPDATE backline.payment_approval SET approved = %(approved)s::boolean, decided_by = %(decided_by)s::text,
    decided_at = clock_timestamp()
WHERE payment_id = %(payment_id)s::bigint AND attempt_number = %(number)s::smallint AND approved IS NULL;

-- name: approval_get
-- What was answered about a try.
SELECT approved FROM backline.payment_approval
WHERE payment_id = %(payment_id)s::bigint AND attempt_number = %(number)s::smallint AND approved IS NOT NULL;

-- name: refund_start
-- A refund of all that is left of a captured payment, written down before it is asked for; the one that is under way, if any.
WITH left_over AS (
    SELECT p.id, p.amount_minor - p.refunded_minor AS amount_minor, p.currency FROM app.payments AS p
    WHERE p.id = %(payment_id)s::bigint AND p.state = 'captured' AND p.refunded_minor < p.amount_minor
), under_way AS (
    SELECT r.id, r.amount_minor FROM app.refunds AS r JOIN left_over ON left_over.id = r.payment_id
    WHERE r.state = 'pending' ORDER BY r.id LIMIT 1
), made AS (
    INSERT INTO app.refunds (payment_id, amount_minor, currency, reason)
    SELECT id, amount_minor, currency, %(reason)s::text FROM left_over WHERE NOT EXISTS (SELECT 1 FROM under_way)
    RETURNING id, amount_minor
)
SELECT id, amount_minor FROM under_way UNION ALL SELECT id, amount_minor FROM made;

-- name: refund_finish
-- The provider has given the money back: refund and payment say so. The order is settled with its stock by `orders`.
WITH ended AS (
    UPDATE app.refunds SET state = 'succeeded', provider_reference = %(reference)s::text, ended_at = clock_timestamp()
    WHERE id = %(refund_id)s::bigint AND state = 'pending'
    RETURNING payment_id, amount_minor
)
UPDATE app.payments AS p SET refunded_minor = p.refunded_minor + ended.amount_minor
FROM ended WHERE p.id = ended.payment_id
RETURNING p.order_id;

-- name: refund_fail
-- The provider will not give the money back.
UPDATE app.refunds SET state = 'failed', provider_reference = %(reference)s::text, ended_at = clock_timestamp()
WHERE id = %(refund_id)s::bigint AND state = 'pending';

-- name: event_insert
-- Keeps what a provider tells; no row if it is known.
INSERT INTO app.payment_events (provider, event_id, type, occurred_at, body)
VALUES (%(provider)s::text::app.payment_provider, %(event_id)s::text, %(type)s::text, %(occurred_at)s::timestamptz,
    %(body)s::jsonb)
ON CONFLICT (provider, event_id) DO NOTHING
RETURNING id;

-- name: event_is_waiting
-- Whether an event waits that nobody has looked at yet.
SELECT EXISTS (SELECT 1 FROM app.payment_events WHERE processed_at IS NULL AND problem IS NULL) AS is_new;

-- name: event_claim
-- The first event after that place that waits and that nobody else has in hand, held until the transaction ends.
SELECT id, provider::text AS provider, event_id, type, occurred_at, body, problem,
    extract(epoch FROM clock_timestamp() - received_at)::float8 / 3600 AS waited_hours
FROM app.payment_events
WHERE processed_at IS NULL AND (occurred_at, id) > (%(occurred_at)s::timestamptz, %(id)s::bigint)
ORDER BY occurred_at, id LIMIT 1 FOR UPDATE SKIP LOCKED;

-- name: event_finish
-- What became of an event; one that is not done waits.
UPDATE app.payment_events SET processed_at = CASE WHEN %(is_done)s::boolean THEN clock_timestamp() END,
    problem = %(problem)s::text, payment_id = coalesce(%(payment_id)s::bigint, payment_id)
WHERE id = %(id)s::bigint;

-- name: event_payment_find
-- The payment that an event is about, by the provider's id or by our key.
SELECT id, order_id FROM app.payments
WHERE provider = %(provider)s::text::app.payment_provider
  AND (provider_reference = %(reference)s::text OR idempotency_key = %(key)s::text)
ORDER BY provider_reference IS NOT DISTINCT FROM %(reference)s::text DESC LIMIT 1;

-- name: charged_subscription_find
-- The subscription that a provider charges: its next cycle, and the order of it that waits for money.
SELECT s.id, s.state::text AS state, s.next_on, s.zone::text AS zone,
    s.retry_on, s.next_on - (%(at)s::timestamptz AT TIME ZONE s.zone)::date AS days_ahead,
    (SELECT o.id FROM app.orders AS o WHERE o.subscription_id = s.id AND o.state IN ('pending', 'reserved')
     ORDER BY o.cycle_on LIMIT 1) AS order_id
FROM app.subscriptions AS s
WHERE s.provider = %(provider)s::text::app.payment_provider AND s.provider_reference = %(reference)s::text
FOR NO KEY UPDATE;

-- name: payment_abandon
-- A declined payment after so many attempts is not tried again.
UPDATE app.payments SET state = 'abandoned', abandoned_at = clock_timestamp(), next_attempt_at = NULL
WHERE id = %(payment_id)s::bigint AND state = 'failed' AND attempts = %(attempts)s::smallint;
