-- Reconciliation of payments with a provider's statement.

-- name: payment_match
-- The local payments that match the provider's: by the provider's id, or by the order where that id is not known here.
-- At most one row for each of the provider's payments, with its position in the arrays.
SELECT t.position::integer AS position, p.id AS payment_id, p.order_id, p.provider_reference AS reference, p.amount_minor, p.refunded_minor,
    p.currency, p.state::text AS state, p.created_at
FROM unnest(%(references)s::text[], %(orders)s::bigint[]) WITH ORDINALITY AS t (reference, order_id, position)
CROSS JOIN LATERAL (
    SELECT * FROM (
        SELECT * FROM app.payments AS k
        WHERE k.provider = %(provider)s::app.payment_provider AND k.provider_reference = t.reference
        UNION ALL
        SELECT * FROM app.payments AS k
        WHERE k.order_id = t.order_id AND k.provider = %(provider)s::app.payment_provider
          AND (k.provider_reference IS NULL OR k.state = 'captured' AND k.provider_reference <> t.reference)
          AND NOT EXISTS (SELECT FROM app.payments AS n
                          WHERE n.provider = %(provider)s::app.payment_provider AND n.provider_reference = t.reference)
    ) AS either
    -- A captured payment with another id comes first: then the provider captured this one in addition.
    ORDER BY state = 'captured' DESC, id LIMIT 1) AS p
ORDER BY t.position;

-- name: payment_page
-- A page of the local payments of a window that the provider has accepted, by id.
SELECT p.id AS payment_id, p.order_id, p.provider_reference AS reference, p.amount_minor, p.refunded_minor,
    p.currency, p.state::text AS state, p.created_at
FROM app.payments AS p
WHERE p.provider = %(provider)s::app.payment_provider AND p.provider_reference IS NOT NULL
  AND p.created_at >= %(since)s::timestamptz AND p.created_at < %(until)s::timestamptz
  AND p.id > %(after_id)s::bigint
ORDER BY p.id LIMIT %(batch_limit)s::integer;

-- name: payment_lock
-- Locks a payment and its order if the discrepancy still exists: not captured, of that amount and currency, its order
-- unpaid. Locks the order first, like charges do.
SELECT p.id FROM app.orders AS o JOIN app.payments AS p ON p.order_id = o.id
WHERE p.id = %(payment_id)s::bigint AND o.state = 'reserved' AND p.state IN ('pending', 'requires_action', 'failed')
  AND p.amount_minor = %(amount_minor)s::bigint AND p.currency = %(currency)s::text AND p.amount_minor = o.total_minor
  AND coalesce(p.provider_reference, %(reference)s::text) = %(reference)s::text
  AND NOT EXISTS (SELECT FROM app.payments AS k WHERE k.order_id = o.id AND k.state = 'captured')
  AND NOT EXISTS (SELECT FROM app.payment_attempts AS t
                  WHERE t.payment_id = p.id AND t.ended_at IS NULL AND t.started_at > %(grace_cutoff)s::timestamptz)
FOR NO KEY UPDATE OF o, p;

-- name: payment_capture
-- Records a capture of the provider: the payment, its open attempt and its order. If no attempt is open, a new attempt
-- records the capture.
WITH now_at AS MATERIALIZED (
    SELECT clock_timestamp() AS at
), open AS (
    SELECT t.payment_id, t.number FROM app.payment_attempts AS t
    WHERE t.payment_id = %(payment_id)s::bigint AND t.ended_at IS NULL ORDER BY t.number DESC LIMIT 1
), ended AS (
    UPDATE app.payment_attempts AS t SET ended_at = n.at, outcome = 'captured' FROM open AS o, now_at AS n
    WHERE t.payment_id = o.payment_id AND t.number = o.number
), added AS (
    INSERT INTO app.payment_attempts (payment_id, number, started_at, ended_at, outcome)
    SELECT %(payment_id)s::bigint, 1 + coalesce((SELECT max(t.number) FROM app.payment_attempts AS t
        WHERE t.payment_id = %(payment_id)s::bigint), 0), n.at, n.at, 'captured'
    FROM now_at AS n WHERE NOT EXISTS (SELECT FROM open)
    RETURNING payment_id
), captured AS (
    UPDATE app.payments AS p SET state = 'captured', captured_at = n.at, next_attempt_at = NULL,
        provider_reference = %(reference)s::text, attempts = (SELECT count(*) FROM app.payment_attempts AS t
            WHERE t.payment_id = p.id) + (SELECT count(*) FROM added)
    FROM now_at AS n WHERE p.id = %(payment_id)s::bigint
    RETURNING p.order_id, p.captured_at
)
UPDATE app.orders AS o SET state = 'paid', paid_at = b.captured_at FROM captured AS b WHERE o.id = b.order_id
RETURNING o.id;

-- name: covered_until
-- The end of the provider's last reconciled window; null before the first.
SELECT max(r.until) AS until FROM backline.reconciliation AS r WHERE r.provider = %(provider)s::text;

-- name: run_insert
-- Records the window of a reconciliation and its result.
INSERT INTO backline.reconciliation (provider, since, until, provider_count, local_count, discrepancies, fixed,
    remaining, report)
VALUES (%(provider)s::text, %(since)s::timestamptz, %(until)s::timestamptz, %(provider_count)s::bigint,
    %(local_count)s::bigint, %(discrepancies)s::jsonb, %(fixed)s::integer, %(remaining)s::integer, %(report)s::text);

-- name: discrepancy_upsert
-- Records the remaining discrepancies; returns for each whether it is new.
INSERT INTO backline.reconciliation_discrepancy AS d (provider, kind, reference, summary)
SELECT DISTINCT %(provider)s::text, kind, reference, summary
FROM unnest(%(kinds)s::text[], %(references)s::text[], %(summaries)s::text[]) AS u (kind, reference, summary)
ORDER BY 3, 2, 4
ON CONFLICT (provider, reference, kind, summary) DO UPDATE SET last_seen_at = clock_timestamp()
RETURNING xmax = 0 AS is_new;

-- name: discrepancy_prune
-- Deletes discrepancies that no reconciliation has found for `retention_days`.
DELETE FROM backline.reconciliation_discrepancy AS d
WHERE d.provider = %(provider)s::text AND d.last_seen_at < clock_timestamp() - %(retention_days)s::float8 * interval '1 day';
