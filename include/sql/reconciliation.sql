-- Our payments held against a provider's list: read, mended where it is safe, reported.

-- name: payment_match
-- Our payments that stand for these of the provider's: by its id, or by the order where we do not know its id (yet).
-- A row for each of theirs that has one, with its place in the arrays.
SELECT t.place, p.id AS payment_id, p.order_id, p.provider_reference AS reference, p.amount_minor, p.refunded_minor,
    p.currency, p.state::text AS state, p.created_at
FROM unnest(%(references)s::text[], %(orders)s::bigint[]) WITH ORDINALITY AS t (reference, order_id, place)
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
    -- A payment that is known under another id comes first: then this one was taken besides it.
    ORDER BY state = 'captured' DESC, id LIMIT 1) AS p
ORDER BY t.place;

-- name: payment_page
-- Our payments of a window that the provider took, in pages by id.
SELECT p.id AS payment_id, p.order_id, p.provider_reference AS reference, p.amount_minor, p.currency,
    p.state::text AS state, p.created_at
FROM app.payments AS p
WHERE p.provider = %(provider)s::app.payment_provider AND p.provider_reference IS NOT NULL
  AND p.created_at >= %(since)s::timestamptz AND p.created_at < %(until)s::timestamptz
  AND p.id > %(after)s::bigint
ORDER BY p.id LIMIT %(page_size)s::integer;

-- name: payment_lock
-- A payment and its order, locked, if what is to be mended still holds: not captured, of that amount and currency, its
-- order waiting for the money. The order first, as whoever pays it does.
SELECT p.id FROM app.orders AS o JOIN app.payments AS p ON p.order_id = o.id
WHERE p.id = %(payment_id)s::bigint AND o.state = 'reserved' AND p.state IN ('pending', 'requires_action', 'failed')
  AND p.amount_minor = %(amount_minor)s::bigint AND p.currency = %(currency)s::text AND p.amount_minor = o.total_minor
  AND coalesce(p.provider_reference, %(reference)s::text) = %(reference)s::text
  AND NOT EXISTS (SELECT FROM app.payments AS k WHERE k.order_id = o.id AND k.state = 'captured')
  AND NOT EXISTS (SELECT FROM app.payment_attempts AS t
                  WHERE t.payment_id = p.id AND t.ended_at IS NULL AND t.started_at > %(grace_cutoff)s::timestamptz)
FOR NO KEY UPDATE OF o, p;

-- name: payment_capture
-- Books money that the provider has and we did not know of: the payment is captured, its last try ended so, the order is
-- paid. A try whose end was told is left as it was, and one more stands for what the provider did.
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
), booked AS (
    UPDATE app.payments AS p SET state = 'captured', captured_at = n.at, next_attempt_at = NULL,
        provider_reference = %(reference)s::text, attempts = (SELECT count(*) FROM app.payment_attempts AS t
            WHERE t.payment_id = p.id) + (SELECT count(*) FROM added)
    FROM now_at AS n WHERE p.id = %(payment_id)s::bigint
    RETURNING p.order_id, p.captured_at
)
UPDATE app.orders AS o SET state = 'paid', paid_at = b.captured_at FROM booked AS b WHERE o.id = b.order_id
RETURNING o.id;

-- name: covered_until
-- Until when a provider has been reconciled; null before the first time.
SELECT max(r.until) AS until FROM backline.reconciliation AS r WHERE r.provider = %(provider)s::text;

-- name: run_insert
-- What one reconciliation covered and found.
INSERT INTO backline.reconciliation (provider, since, until, provider_count, local_count, discrepancies, fixed, remaining, report)
VALUES (%(provider)s::text, %(since)s::timestamptz, %(until)s::timestamptz, %(provider_count)s::bigint, %(local_count)s::bigint,
    %(found)s::jsonb, %(fixed)s::integer, %(remaining)s::integer, %(report)s::text);

-- name: discrepancy_upsert
-- Differences that were left; returns for each whether it is new.
INSERT INTO backline.reconciliation_discrepancy AS d (provider, kind, reference, summary)
SELECT DISTINCT %(provider)s::text, kind, reference, summary
FROM unnest(%(kinds)s::text[], %(references)s::text[], %(summaries)s::text[]) AS u (kind, reference, summary)
ORDER BY 3, 2, 4
ON CONFLICT (provider, reference, kind, summary) DO UPDATE SET last_seen_at = clock_timestamp()
RETURNING xmax = 0 AS is_new;

-- name: discrepancy_prune
-- Differences that no reconciliation has seen for so long are forgotten.
DELETE FROM backline.reconciliation_discrepancy AS d
WHERE d.provider = %(provider)s::text AND d.last_seen_at < clock_timestamp() - %(retention_days)s::float8 * interval '1 day';
