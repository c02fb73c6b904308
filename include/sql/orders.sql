-- Orders, in the app's own tables: edit these statements, or put your own into a file of the same name in the folder
-- `database.statements_folder` (docs/adopting.md). Names, parameters and result columns must stay.
--
-- A statement that changes an order's state names the states that it may have, and returns no row if it has another: the
-- second of two overlapping runs changes nothing. Times are the server's clock, never earlier than those they follow.

-- name: order_get
-- One order, its customer, and the state of its payments:
--   has_payment            there is a payment, in any state; `payment_provider` is the provider of the captured or latest one
--   is_refunding           a refund of the whole payment is pending or succeeded
--   is_refunded            the whole payment is refunded, and the order's state does not say so yet
--   has_open_attempt       an attempt has no result: it may have charged
--   is_retry_scheduled     the latest payment was declined and has a next attempt
--   is_payment_abandoned   the latest payment was declined and has no next attempt
--   is_payment_overdue     the stock has been reserved for longer than `payment_timeout_hours`
--   is_billed_by_provider  the provider charges the order's subscription itself
--   was_notified           the customer was notified of the order when the subscription was renewed
SELECT o.id, o.number, o.state::text AS state, o.currency::text AS currency, o.tax_minor, o.shipping_minor, o.total_minor,
    o.placed_at, o.promised_on, u.name, u.email, u.phone, u.language::text AS language, u.zone::text AS zone,
    u.state <> 'deactivated' AS can_be_notified, u.phone IS NOT NULL AND 'sms' = ANY (u.channels) AS wants_sms,
    p.id IS NOT NULL AS has_payment, coalesce(c.provider, p.provider)::text AS payment_provider,
    coalesce(c.going_minor >= c.amount_minor, false) AS is_refunding,
    coalesce(c.refunded_minor = c.amount_minor AND o.state <> 'refunded', false) AS is_refunded,
    EXISTS (SELECT FROM app.payments AS c JOIN app.payment_attempts AS t ON t.payment_id = c.id
            WHERE c.order_id = o.id AND t.ended_at IS NULL) AS has_open_attempt,
    coalesce(p.next_attempt_at IS NOT NULL, false) AS is_retry_scheduled,
    coalesce(p.state IN ('failed', 'abandoned') AND p.next_attempt_at IS NULL, false) AS is_payment_abandoned,
    coalesce(o.reserved_at <= clock_timestamp() - %(payment_timeout_hours)s::float8 * interval '1 hour', false) AS is_payment_overdue,
    s.provider IS NOT NULL AS is_billed_by_provider, s.id IS NOT NULL AS was_notified
FROM app.orders AS o
JOIN app.users AS u ON u.id = o.user_id
LEFT JOIN app.subscriptions AS s ON s.id = o.subscription_id
LEFT JOIN LATERAL (SELECT * FROM app.payments AS l WHERE l.order_id = o.id ORDER BY l.id DESC LIMIT 1) AS p ON true
LEFT JOIN LATERAL (
    SELECT k.provider, k.amount_minor, k.refunded_minor,
        (SELECT sum(r.amount_minor) FROM app.refunds AS r WHERE r.payment_id = k.id AND r.state <> 'failed') AS going_minor
    FROM app.payments AS k WHERE k.order_id = o.id AND k.state = 'captured') AS c ON true
WHERE o.id = %(id)s::bigint;

-- name: order_lines
-- The lines of an order, and whether each product is no longer sold.
SELECT l.description, l.quantity, l.net_minor, l.tax_minor, p.sku, p.retired_at IS NOT NULL AS is_retired
FROM app.order_lines AS l JOIN app.products AS p ON p.id = l.product_id
WHERE l.order_id = %(id)s::bigint ORDER BY l.number;

-- name: order_lock
-- Locks an order until the transaction ends; returns its state.
SELECT o.state::text AS state FROM app.orders AS o WHERE o.id = %(id)s::bigint FOR NO KEY UPDATE;

-- name: stock_lock
-- The products of an order, locked in the order of their ids, with the wanted and the unreserved quantity of each.
SELECT p.sku, w.wanted, p.stock - p.reserved AS free
FROM app.products AS p
JOIN (SELECT l.product_id, sum(l.quantity)::integer AS wanted FROM app.order_lines AS l
      WHERE l.order_id = %(id)s::bigint GROUP BY l.product_id) AS w ON w.product_id = p.id
ORDER BY p.id FOR NO KEY UPDATE OF p;

-- name: order_reserve
-- Reserves the stock of a pending order.
WITH moved AS (
    UPDATE app.orders AS o SET state = 'reserved', reserved_at = greatest(clock_timestamp(), o.placed_at)
    WHERE o.id = %(id)s::bigint AND o.state = 'pending'
    RETURNING o.id
), reserved AS (
    UPDATE app.products AS p SET reserved = p.reserved + w.wanted
    FROM (SELECT l.product_id, sum(l.quantity)::integer AS wanted FROM app.order_lines AS l
          JOIN moved ON moved.id = l.order_id GROUP BY l.product_id) AS w
    WHERE p.id = w.product_id
)
SELECT id FROM moved;

-- name: order_confirm
-- Confirms a paid order, unless it is being refunded.
UPDATE app.orders AS o SET state = 'confirmed', confirmed_at = greatest(clock_timestamp(), o.paid_at)
WHERE o.id = %(id)s::bigint AND o.state = 'paid'
  AND NOT EXISTS (SELECT FROM app.payments AS p WHERE p.order_id = o.id AND p.state = 'captured' AND p.amount_minor <= (
        SELECT coalesce(sum(r.amount_minor), 0) FROM app.refunds AS r WHERE r.payment_id = p.id AND r.state <> 'failed'))
RETURNING o.id;

-- name: payments_lock
-- Locks the payments of an order until the transaction ends.
SELECT p.id FROM app.payments AS p WHERE p.order_id = %(id)s::bigint ORDER BY p.id FOR NO KEY UPDATE;

-- name: order_cancel
-- Cancels an order without a captured payment or an open attempt: its stock is released and its payments are abandoned.
WITH moved AS (
    UPDATE app.orders AS o
    SET state = 'cancelled', cancelled_at = greatest(clock_timestamp(), o.reserved_at, o.placed_at)
    WHERE o.id = %(id)s::bigint AND o.state IN ('pending', 'reserved')
      AND NOT EXISTS (SELECT FROM app.payments AS p LEFT JOIN app.payment_attempts AS t ON t.payment_id = p.id
                      WHERE p.order_id = o.id AND (p.state = 'captured' OR t.number IS NOT NULL AND t.ended_at IS NULL))
    RETURNING o.id, o.reserved_at
), returned AS (
    UPDATE app.products AS p SET reserved = p.reserved - w.wanted
    FROM (SELECT l.product_id, sum(l.quantity)::integer AS wanted FROM app.order_lines AS l
          JOIN moved ON moved.id = l.order_id WHERE moved.reserved_at IS NOT NULL GROUP BY l.product_id) AS w
    WHERE p.id = w.product_id
), abandoned AS (
    UPDATE app.payments AS p
    SET state = 'abandoned', next_attempt_at = NULL, decline_kind = coalesce(p.decline_kind, 'needs_action'),
        decline_code = coalesce(p.decline_code, 'order_cancelled'), failed_at = coalesce(p.failed_at, p.created_at),
        abandoned_at = greatest(clock_timestamp(), p.failed_at, p.created_at)
    FROM moved WHERE p.order_id = moved.id AND p.state <> 'abandoned'
)
SELECT id FROM moved;

-- name: order_refund
-- Marks an order refunded whose payment is refunded in full, and releases its stock. What has been shipped is not in stock.
WITH moved AS (
    UPDATE app.orders AS o SET state = 'refunded',
        refunded_at = greatest(clock_timestamp(), o.delivered_at, o.shipped_at, o.confirmed_at, o.paid_at)
    FROM app.payments AS p
    WHERE o.id = %(id)s::bigint AND o.state IN ('paid', 'confirmed', 'shipped', 'delivered') AND p.order_id = o.id
      AND p.state = 'captured' AND p.refunded_minor = p.amount_minor
    RETURNING o.id, o.shipped_at
), returned AS (
    UPDATE app.products AS p SET reserved = p.reserved - w.wanted
    FROM (SELECT l.product_id, sum(l.quantity)::integer AS wanted FROM app.order_lines AS l
          JOIN moved ON moved.id = l.order_id AND moved.shipped_at IS NULL GROUP BY l.product_id) AS w
    WHERE p.id = w.product_id
)
SELECT id FROM moved;

-- name: order_unfinished
-- Orders above the id `after_id` that can be advanced: in their state for `grace_seconds`, and waiting neither for their payment's
-- next attempt nor, unless that is overdue, for their customer or the provider of their subscription. And those whose whole
-- payment was refunded by somebody else.
SELECT o.id, o.number, o.state::text AS state, o.state_since, p.id AS payment_id, p.state::text AS payment_state
FROM (SELECT id FROM app.orders WHERE state IN ('pending', 'reserved', 'paid')
      UNION ALL
      SELECT r.id FROM app.payments AS k JOIN app.orders AS r ON r.id = k.order_id
      WHERE k.state = 'captured' AND k.refunded_minor = k.amount_minor AND r.state IN ('confirmed', 'shipped', 'delivered')) AS u
JOIN app.orders AS o ON o.id = u.id
LEFT JOIN LATERAL (SELECT * FROM app.payments AS l WHERE l.order_id = o.id ORDER BY l.id DESC LIMIT 1) AS p ON true
WHERE o.id > %(after_id)s::bigint
  AND o.state_since <= clock_timestamp() - %(grace_seconds)s::float8 * interval '1 second'
  AND (o.state <> 'reserved' OR p.next_attempt_at IS NULL)
  AND (o.state <> 'reserved' OR o.reserved_at <= clock_timestamp() - %(payment_timeout_hours)s::float8 * interval '1 hour'
       OR NOT coalesce(p.state = 'requires_action', false)
          AND NOT EXISTS (SELECT FROM app.subscriptions AS s WHERE s.id = o.subscription_id AND s.provider IS NOT NULL))
ORDER BY o.id LIMIT %(batch_limit)s::integer;

-- name: order_stuck
-- Unfinished orders that have been in their state for longer than allowed: the count of each state, since when, and the numbers
-- of the ten oldest. An order whose payment has a next attempt is not stuck.
SELECT o.state::text AS state, count(*)::integer AS orders, min(o.state_since) AS since,
    (array_agg(o.number ORDER BY o.state_since, o.id))[1:10] AS numbers
FROM app.orders AS o
JOIN unnest(%(states)s::text[], %(hours)s::float8[]) AS allowed (state, hours) ON allowed.state = o.state::text
WHERE o.state IN ('pending', 'reserved', 'paid', 'confirmed', 'shipped')
  AND o.state_since <= clock_timestamp() - allowed.hours * interval '1 hour'
  AND NOT EXISTS (SELECT FROM app.payments AS p WHERE p.order_id = o.id AND p.next_attempt_at IS NOT NULL)
GROUP BY o.state ORDER BY o.state;

-- name: reminder_due
-- Orders above the id `after_id` whose customer is due a reminder of a stage and has not had it:
--   payment_missing, payment_missing_again   reserved `after_hours` ago and not paid, with neither a next attempt of the payment
--                                            nor a provider that charges the subscription itself
--   review                                   delivered between `after_hours` and `until_hours` ago
SELECT o.id, o.number, o.currency::text AS currency, o.total_minor, u.name, u.email, u.language::text AS language,
    (timezone(u.zone, o.reserved_at + %(payment_timeout_hours)s::float8 * interval '1 hour'))::date AS pay_until
FROM app.orders AS o JOIN app.users AS u ON u.id = o.user_id
WHERE o.id > %(after_id)s::bigint AND u.state <> 'deactivated'
  AND CASE %(stage)s::app.reminder_stage WHEN 'review' THEN o.state = 'delivered' ELSE o.state = 'reserved' END
  AND o.state_since <= clock_timestamp() - %(after_hours)s::float8 * interval '1 hour'
  AND o.state_since > clock_timestamp() - %(until_hours)s::float8 * interval '1 hour'
  AND NOT EXISTS (SELECT FROM app.payments AS p WHERE p.order_id = o.id AND p.next_attempt_at IS NOT NULL)
  AND NOT EXISTS (SELECT FROM app.subscriptions AS s WHERE s.id = o.subscription_id AND s.provider IS NOT NULL)
  AND NOT EXISTS (SELECT FROM app.order_reminders AS r
                  WHERE r.order_id = o.id AND r.stage = %(stage)s::app.reminder_stage)
ORDER BY o.id LIMIT %(batch_limit)s::integer;

-- name: reminder_insert
-- Stores that a customer is reminded; no row if they were before, or if the order's state has changed.
INSERT INTO app.order_reminders (order_id, stage)
SELECT o.id, %(stage)s::app.reminder_stage FROM app.orders AS o
WHERE o.id = %(id)s::bigint
  AND CASE %(stage)s::app.reminder_stage WHEN 'review' THEN o.state = 'delivered' ELSE o.state = 'reserved' END
FOR SHARE OF o
ON CONFLICT DO NOTHING
RETURNING order_id;
