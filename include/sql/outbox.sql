-- The outbox engine's statements. All times are of the database's clock.
-- Rows that a statement has locked are updated by ctid, which a lock keeps: one index descent less per row. With
-- `ctid = ANY (ARRAY(...))`, because the planner may turn a join into a hash of the whole table.

-- name: message_promote
-- Makes due messages pending, at most `batch_limit`; returns one row each. (clock_timestamp is evaluated per row, so it could not
-- bound the index scan, which would read everything that is due later.)
UPDATE backline.message AS m SET state = 'pending'
WHERE m.ctid = ANY (ARRAY(
    SELECT ctid FROM backline.message
    WHERE state = 'scheduled' AND due_at <= statement_timestamp()
    ORDER BY due_at LIMIT %(batch_limit)s::integer FOR UPDATE SKIP LOCKED))
RETURNING m.lane;

-- name: message_expire
-- Ends messages that have expired and are not leased, at most `batch_limit`; their secrets are erased.
UPDATE backline.message AS m
SET state = 'expired', finalized_at = clock_timestamp(), payload = m.payload - backline.secret_fields(m.type),
    error = 'expired before it could be sent'
WHERE m.ctid = ANY (ARRAY(
    SELECT ctid FROM backline.message
    WHERE state IN ('scheduled', 'pending') AND expires_at IS NOT NULL AND expires_at <= statement_timestamp()
    ORDER BY expires_at LIMIT %(batch_limit)s::integer FOR UPDATE SKIP LOCKED))
RETURNING m.lane;

-- name: message_claim
-- Leases up to `batch_limit` due messages of a lane, by priority, after a position in that order: (-32768, '-infinity', 0) is
-- before the first. It does not wait for the disk: the completion, which does, detects a claim that a crash undid.
-- `has_preferences`: whether any recipient has preferences; evaluated once per claim.
UPDATE backline.message AS m
SET state = 'leased', lease_token = %(token)s::uuid, dispatcher = %(dispatcher)s::bigint,
    leased_until = clock_timestamp() + %(lease_seconds)s::float8 * interval '1 second'
WHERE m.ctid = ANY (ARRAY(
    SELECT ctid FROM backline.message
    WHERE state = 'pending' AND rescues = 0 AND lane = %(lane)s::text
      AND (-priority, due_at, id) > (%(after_rank)s::integer, %(due_at)s::timestamptz, %(id)s::bigint)
    ORDER BY -priority, due_at, id
    LIMIT %(batch_limit)s::integer FOR UPDATE SKIP LOCKED))
  AND (SELECT set_config('synchronous_commit', 'off', true)) IS NOT NULL
RETURNING m.id, m.type, m.type_version, m.recipient, m.payload::text AS payload_json, m.created_at, m.attempt, m.max_attempts,
    m.rate_token_reserved, m.lease_token AS token, m.priority, m.due_at, extract(epoch FROM m.expires_at - clock_timestamp())::float8 AS seconds_to_live,
    EXISTS (SELECT FROM backline.suppression) OR EXISTS (SELECT FROM backline.opt_out)
        OR EXISTS (SELECT FROM backline.recipient_preference) AS has_preferences;

-- name: message_is_rescued_waiting
-- Whether the lane has a message whose dispatcher died.
SELECT EXISTS (SELECT FROM backline.message WHERE state = 'pending' AND rescues > 0 AND lane = %(lane)s::text);

-- name: message_claim_rescued
-- Leases one message whose dispatcher died: it is sent alone, in case it caused the death.
UPDATE backline.message AS m
SET state = 'leased', lease_token = %(token)s::uuid, dispatcher = %(dispatcher)s::bigint,
    leased_until = clock_timestamp() + %(lease_seconds)s::float8 * interval '1 second'
WHERE m.ctid = ANY (ARRAY(
    SELECT ctid FROM backline.message
    WHERE state = 'pending' AND rescues > 0 AND lane = %(lane)s::text
    ORDER BY priority DESC, due_at, id
    LIMIT 1 FOR UPDATE SKIP LOCKED))
RETURNING m.id, m.type, m.type_version, m.recipient, m.payload::text AS payload_json, m.created_at, m.attempt, m.max_attempts,
    m.rate_token_reserved, m.lease_token AS token, m.priority, m.due_at, extract(epoch FROM m.expires_at - clock_timestamp())::float8 AS seconds_to_live, true AS has_preferences;

-- name: message_lease_one
-- Leases one message by id for a run that delivers it; no row if it is final, not due or leased by another process.
UPDATE backline.message AS m
SET state = 'leased', lease_token = %(token)s::uuid, dispatcher = NULL,
    leased_until = clock_timestamp() + %(lease_seconds)s::float8 * interval '1 second'
WHERE m.id = %(id)s::bigint AND NOT m.cancel_requested
  AND (m.state = 'pending' OR m.state = 'scheduled' AND m.due_at <= clock_timestamp()
       OR m.state = 'leased' AND m.leased_until < clock_timestamp())
RETURNING m.id, m.type, m.type_version, m.recipient, m.payload::text AS payload_json, m.created_at, m.attempt, m.max_attempts,
    m.rate_token_reserved, m.lease_token AS token, m.priority, m.due_at, extract(epoch FROM m.expires_at - clock_timestamp())::float8 AS seconds_to_live, true AS has_preferences;

-- name: message_status
-- The current state of one message.
SELECT id, type, channel, lane, priority, state, recipient, due_at, expires_at, attempt, max_attempts, rescues,
    request_id, group_id, replay_of, created_at, finalized_at, error_class, error, provider_id,
    extract(epoch FROM greatest(due_at, coalesce(leased_until, due_at)) - clock_timestamp())::float8 AS seconds_to_due
FROM backline.message WHERE id = %(id)s::bigint;

-- name: message_list_enqueued
-- The messages of an id that enqueue returned: the message, or those of a group, whose ids follow the group's id. An event for all
-- webhook endpoints is one message; its messages for each endpoint are left to the lane.
SELECT id, channel FROM backline.message
WHERE id = %(id)s::bigint OR id > %(id)s::bigint AND id <= %(id)s::bigint + 100000 AND group_id = %(id)s::bigint
    AND NOT EXISTS (SELECT FROM backline.message AS own WHERE own.id = %(id)s::bigint)
ORDER BY id;

-- name: message_attempts
-- The attempts of one message, in order; for one that ended with its process, `process_end` is what is known of that.
SELECT a.number, a.started_at, least(greatest(a.duration_ms, 0), 1e15)::real AS duration_ms, a.outcome, a.error_class, a.code, a.response, a.dispatcher, a.dag_run,
    CASE WHEN a.outcome = 'rescued' THEN (
        SELECT d.cause FROM backline.dead_letter AS d
        WHERE d.kind = 'job' AND d.name = split_part(a.dag_run, '/', 1) AND d.task_id <> ''
          AND d.run_id = substr(a.dag_run, strpos(a.dag_run, '/') + 1)
        ORDER BY d.id DESC LIMIT 1) END AS process_end
FROM backline.attempt AS a WHERE a.message_id = %(id)s::bigint ORDER BY a.number, a.started_at;

-- name: message_complete_many
-- Ends attempts, fenced by lease token; returns the messages whose lease was still held. An attempt that ends in `scheduled` is
-- retried after `delay` seconds, unless the message expires before (expired) or its cancellation was requested (cancelled). Secrets
-- of final messages are erased; one attempt row is inserted for each.
-- A lateral join, so that each message is found by its id whatever the statistics are: otherwise the planner may choose the small
-- index of leased messages and read all of it for each message.
WITH done AS (
    SELECT * FROM json_to_recordset(%(outcomes)s::json) AS u (
        message_id bigint, token uuid, state backline.message_state, delay float8, error_class text, error text,
        provider_id text, code text, response text, age float8, duration float8)
), decided AS (
    SELECT done.*, least(m.attempt + 1, 32767) AS number, clock_timestamp() AS at, coalesce(t.secret_fields, '{}') AS secret_fields,
        CASE
            WHEN done.state <> 'scheduled' THEN done.state
            WHEN m.cancel_requested THEN 'cancelled'
            WHEN clock_timestamp() + done.delay * interval '1 second' >= m.expires_at THEN 'expired'
            ELSE 'scheduled'
        END::backline.message_state AS next_state
    FROM done
    CROSS JOIN LATERAL (
        SELECT held.type, held.attempt, held.cancel_requested, held.expires_at FROM backline.message AS held
        WHERE held.id = done.message_id AND held.lease_token = done.token FOR UPDATE) AS m
    LEFT JOIN backline.message_type AS t ON t.name = m.type
), updated AS (
    UPDATE backline.message AS m
    SET state = d.next_state,
        attempt = d.number,
        lease_token = NULL, leased_until = NULL, dispatcher = NULL, rate_token_reserved = false,
        due_at = CASE WHEN d.next_state = 'scheduled' THEN d.at + d.delay * interval '1 second' ELSE m.due_at END,
        finalized_at = CASE WHEN d.next_state = 'scheduled' THEN NULL ELSE d.at END,
        payload = CASE WHEN d.next_state = 'scheduled' THEN m.payload ELSE m.payload - d.secret_fields END,
        error_class = d.error_class, error = d.error, provider_id = d.provider_id
    FROM decided AS d
    WHERE m.id = d.message_id
    RETURNING m.id, m.state
), written AS (
    INSERT INTO backline.attempt (message_id, number, started_at, duration_ms, outcome, error_class, code, response,
                                  dispatcher, dag_run)
    SELECT d.message_id, d.number, d.at - d.age * interval '1 second', d.duration * 1000, d.next_state::text, d.error_class,
        d.code, CASE WHEN cardinality(d.secret_fields) = 0 THEN left(d.response, 4096) END,
        %(dispatcher)s::bigint, %(dag_run)s::text
    FROM decided AS d
)
SELECT id, state FROM updated;

-- name: message_return_many
-- Returns claimed messages that were not attempted, fenced by lease token, without using up an attempt or a rescue.
UPDATE backline.message AS m
SET state = CASE WHEN m.cancel_requested THEN 'cancelled' ELSE 'pending' END::backline.message_state,
    finalized_at = CASE WHEN m.cancel_requested THEN clock_timestamp() END,
    payload = CASE WHEN m.cancel_requested THEN m.payload - backline.secret_fields(m.type) ELSE m.payload END,
    lease_token = NULL, leased_until = NULL, dispatcher = NULL
FROM unnest(%(ids)s::bigint[], %(tokens)s::uuid[]) AS u (id, token)
WHERE m.id = u.id AND m.lease_token = u.token
RETURNING m.id;

-- name: message_defer_many
-- Defers claimed messages, fenced by lease token, without using up an attempt: for `reason`, or, if that is null, to the time
-- of the rate token that is now reserved for them. One with a cancellation request is cancelled.
UPDATE backline.message AS m
SET state = CASE WHEN m.cancel_requested THEN 'cancelled' ELSE 'scheduled' END::backline.message_state,
    finalized_at = CASE WHEN m.cancel_requested THEN clock_timestamp() END,
    payload = CASE WHEN m.cancel_requested THEN m.payload - backline.secret_fields(m.type) ELSE m.payload END,
    rate_token_reserved = m.rate_token_reserved OR %(reason)s::text IS NULL,
    error_class = CASE WHEN %(reason)s::text IS NULL THEN m.error_class END, error = coalesce(%(reason)s::text, m.error),
    lease_token = NULL, leased_until = NULL, dispatcher = NULL,
    due_at = clock_timestamp() + u.delay * interval '1 second'
FROM unnest(%(ids)s::bigint[], %(tokens)s::uuid[], %(delays)s::float8[]) AS u (id, token, delay)
WHERE m.id = u.id AND m.lease_token = u.token
RETURNING m.id;

-- name: message_renew
-- Extends leases, fenced by lease token; returns the messages whose lease was still held.
UPDATE backline.message AS m
SET leased_until = clock_timestamp() + %(lease_seconds)s::float8 * interval '1 second'
FROM unnest(%(ids)s::bigint[], %(tokens)s::uuid[]) AS u (id, token)
WHERE m.id = u.id AND m.lease_token = u.token
RETURNING m.id;

-- name: message_cancel_requests
-- A dispatcher's messages whose cancellation was requested.
SELECT id FROM backline.message
WHERE state = 'leased' AND dispatcher = %(dispatcher)s::bigint AND cancel_requested;

-- name: message_rescue
-- Takes messages back: those with expired leases, and those of dispatchers that are gone or whose heartbeat stopped. A message with
-- too many rescues becomes dead, because it may be what kills its dispatchers. Each rescue is an attempt of the outcome 'rescued',
-- with what is known of the process that held the message.
WITH gone AS (
    DELETE FROM backline.dispatcher
    WHERE heartbeat_at < clock_timestamp() - %(heartbeat_timeout)s::float8 * interval '1 second'
    RETURNING id, dag_run, heartbeat_at
), stale AS (
    SELECT m.id, m.attempt, m.dispatcher, CASE
        WHEN m.cancel_requested THEN 'cancelled'
        WHEN m.rescues >= %(max_rescues)s::integer THEN 'dead'
        ELSE 'pending' END::backline.message_state AS next_state
    FROM backline.message AS m
    WHERE m.state = 'leased' AND (
        m.leased_until < clock_timestamp()
        OR m.dispatcher IN (SELECT id FROM gone)
        OR m.dispatcher IS NOT NULL AND NOT EXISTS (
            SELECT FROM backline.dispatcher AS d WHERE d.id = m.dispatcher))
    LIMIT %(batch_limit)s::integer FOR UPDATE OF m SKIP LOCKED
), known AS (
    SELECT s.*, coalesce(gone.dag_run, d.dag_run) AS dag_run, CASE
        WHEN gone.id IS NOT NULL THEN format('no heartbeat for %%s s',
            round(extract(epoch FROM clock_timestamp() - gone.heartbeat_at)))
        WHEN s.dispatcher IS NULL THEN 'the run that was sending it did not renew its lease'
        WHEN d.id IS NOT NULL THEN 'its lease expired while the process was alive'
        ELSE 'the process ended without returning it' END AS reason
    FROM stale AS s LEFT JOIN gone ON gone.id = s.dispatcher LEFT JOIN backline.dispatcher AS d ON d.id = s.dispatcher
), rescued AS (
    INSERT INTO backline.attempt (message_id, number, started_at, duration_ms, outcome, response, dispatcher, dag_run)
    SELECT id, least(attempt + 1, 32767), clock_timestamp(), 0, 'rescued', reason, dispatcher, dag_run FROM known
)
UPDATE backline.message AS m
SET state = k.next_state, rescues = least(m.rescues + 1, 32767), lease_token = NULL, leased_until = NULL, dispatcher = NULL,
    finalized_at = CASE WHEN k.next_state <> 'pending' THEN clock_timestamp() END,
    payload = CASE WHEN k.next_state <> 'pending' THEN m.payload - backline.secret_fields(m.type) ELSE m.payload END,
    error_class = CASE WHEN k.next_state = 'dead' THEN 'unknown' ELSE m.error_class END,
    error = CASE WHEN k.next_state = 'dead'
        THEN 'its dispatcher died ' || (m.rescues + 1) || ' times while it held this message, which may be the cause; the last time: '
            || k.reason || coalesce('; an earlier time: ' || (
                SELECT d.cause FROM backline.attempt AS a JOIN backline.dead_letter AS d
                    ON d.kind = 'job' AND d.task_id <> '' AND d.name = split_part(a.dag_run, '/', 1)
                        AND d.run_id = substr(a.dag_run, strpos(a.dag_run, '/') + 1)
                WHERE a.message_id = m.id AND a.outcome = 'rescued' ORDER BY a.started_at DESC LIMIT 1), '')
        ELSE m.error END
FROM known AS k
WHERE m.id = k.id
RETURNING m.id;

-- name: message_cancel
-- Cancels a message: at once if it is not leased, else its dispatcher is asked to. Returns its new state.
UPDATE backline.message AS m
SET state = CASE WHEN m.state = 'leased' THEN 'leased' ELSE 'cancelled' END::backline.message_state,
    cancel_requested = true,
    finalized_at = CASE WHEN m.state = 'leased' THEN NULL ELSE clock_timestamp() END,
    payload = CASE WHEN m.state = 'leased' THEN m.payload ELSE m.payload - backline.secret_fields(m.type) END
WHERE m.id = %(id)s::bigint AND m.state IN ('scheduled', 'pending', 'leased')
RETURNING m.state;

-- name: message_replace_payload
-- Replaces the payload of a scheduled message that was not attempted yet, and makes it due; no row otherwise.
UPDATE backline.message AS m
SET payload = %(payload)s::jsonb, type_version = %(type_version)s::smallint, state = 'pending', due_at = clock_timestamp()
WHERE m.id = %(id)s::bigint AND m.state = 'scheduled' AND m.attempt = 0
RETURNING m.state;

-- name: message_retry
-- Makes a dead message pending again, with all attempts of its type; not one whose secrets are erased.
UPDATE backline.message AS m
SET state = 'pending', finalized_at = NULL, due_at = clock_timestamp(), rescues = 0, cancel_requested = false,
    max_attempts = m.attempt + coalesce((SELECT r.max_attempts FROM unnest(t.routes) AS r WHERE r.channel = m.channel), 1)
FROM backline.message_type AS t
WHERE m.id = %(id)s::bigint AND m.state = 'dead' AND t.name = m.type AND cardinality(t.secret_fields) = 0
  AND (m.expires_at IS NULL OR m.expires_at > clock_timestamp())
RETURNING m.state;

-- name: dispatcher_register
-- Takes a free slot of a lane; no row if all are taken. Returns whether it succeeds a dispatcher that hands over.
INSERT INTO backline.dispatcher (lane, slot, dag_run)
SELECT %(lane)s::text, s.slot, %(dag_run)s::text
FROM generate_series(1, %(slots)s::integer) AS s (slot)
WHERE NOT EXISTS (
    SELECT FROM backline.dispatcher AS d WHERE d.lane = %(lane)s::text AND d.slot = s.slot AND NOT d.handing_over)
ORDER BY s.slot LIMIT 1
ON CONFLICT DO NOTHING
RETURNING id, EXISTS (
    SELECT FROM backline.dispatcher AS d WHERE d.lane = %(lane)s::text AND d.handing_over) AS is_successor;

-- name: dispatcher_heartbeat
-- Records that a dispatcher is alive; returns whether it should stop and whether it has a successor. No row: it was declared dead
-- and has lost its messages.
UPDATE backline.dispatcher AS d
SET heartbeat_at = clock_timestamp(), handing_over = d.handing_over OR %(handing_over)s::boolean
WHERE d.id = %(dispatcher)s::bigint
RETURNING d.stop_requested, EXISTS (
    SELECT FROM backline.dispatcher AS s WHERE s.lane = d.lane AND s.id > d.id AND NOT s.handing_over) AS has_successor;

-- name: dispatcher_unregister
-- Deletes a dispatcher; messages that it still holds are rescued.
DELETE FROM backline.dispatcher WHERE id = %(dispatcher)s::bigint RETURNING id;

-- name: dispatcher_stop_all
-- Asks every dispatcher to stop.
UPDATE backline.dispatcher SET stop_requested = true RETURNING id;

-- name: dispatcher_count
-- The number of dispatchers with a recent heartbeat.
SELECT count(*)::integer AS alive FROM backline.dispatcher
WHERE heartbeat_at > clock_timestamp() - %(heartbeat_timeout)s::float8 * interval '1 second';

-- name: outbox_has_work
-- For the poller, several times a second: whether any message is pending, due, expired or leased, or a dispatcher is registered.
-- Each part reads the first entry of a partial index. Not EXISTS, which drops the ORDER BY: statistics could then make the
-- planner read the table.
SELECT EXISTS (SELECT FROM backline.dispatcher)
    OR (SELECT true FROM backline.message WHERE state = 'pending' AND rescues = 0
        ORDER BY lane, -priority, due_at, id LIMIT 1) IS NOT NULL
    OR (SELECT true FROM backline.message WHERE state = 'pending' AND rescues > 0
        ORDER BY lane, priority DESC, due_at, id LIMIT 1) IS NOT NULL
    OR (SELECT true FROM backline.message WHERE state = 'scheduled' AND due_at <= statement_timestamp()
        ORDER BY due_at LIMIT 1) IS NOT NULL
    OR (SELECT true FROM backline.message WHERE state = 'leased' ORDER BY dispatcher LIMIT 1) IS NOT NULL
    OR (SELECT true FROM backline.message WHERE state IN ('scheduled', 'pending') AND expires_at IS NOT NULL
            AND expires_at <= statement_timestamp()
        ORDER BY expires_at LIMIT 1) IS NOT NULL AS has_work;

-- name: lane_status
-- For each lane: its waiting messages (counted up to its number in `count_limits`), the message at its head, and its dispatchers.
SELECT l.lane,
    (SELECT count(*)::integer FROM (
        SELECT FROM backline.message AS m WHERE m.lane = l.lane AND m.state = 'pending' AND m.rescues = 0
        LIMIT l.count_limit) AS waiting)
    + (SELECT count(*)::integer FROM (
        SELECT FROM backline.message AS m WHERE m.lane = l.lane AND m.state = 'pending' AND m.rescues > 0
        LIMIT l.count_limit) AS waiting) AS pending,
    head.id AS head_message_id, coalesce(extract(epoch FROM clock_timestamp() - head.due_at), 0)::float8 AS head_age_seconds,
    d.live_dispatchers, d.handing_over
FROM unnest(%(lanes)s::text[], %(count_limits)s::integer[]) AS l (lane, count_limit)
LEFT JOIN LATERAL (
    SELECT m.id, m.due_at FROM backline.message AS m
    WHERE m.lane = l.lane AND m.state = 'pending' AND m.rescues = 0
    ORDER BY -m.priority, m.due_at, m.id LIMIT 1) AS head ON true
CROSS JOIN LATERAL (
    SELECT count(*) FILTER (WHERE NOT d.handing_over)::integer AS live_dispatchers,
        count(*) FILTER (WHERE d.handing_over)::integer AS handing_over
    FROM backline.dispatcher AS d
    WHERE d.lane = l.lane
      AND d.heartbeat_at > clock_timestamp() - %(heartbeat_timeout)s::float8 * interval '1 second') AS d;

-- name: rate_lane_tokens
-- The tokens that a lane has now, and the seconds until the next; locks the bucket (run it in the claim's transaction).
INSERT INTO backline.rate_bucket AS b (key, next_at) VALUES (%(key)s::text, clock_timestamp())
ON CONFLICT (key) DO UPDATE SET next_at = greatest(b.next_at, clock_timestamp())
RETURNING
    greatest(0, floor(%(burst)s::float8 - extract(epoch FROM b.next_at - clock_timestamp()) / %(interval)s::float8
        + 1e-6))::integer AS tokens,
    greatest(0, extract(epoch FROM b.next_at - clock_timestamp())
        - (%(burst)s::float8 - 1) * %(interval)s::float8)::float8 AS wait_seconds;

-- name: rate_lane_spend
-- Spends tokens of a lane's bucket, which this transaction has locked.
UPDATE backline.rate_bucket SET next_at = next_at + %(spent)s::integer * %(interval)s::float8 * interval '1 second'
WHERE key = %(key)s::text;

-- name: rate_reserve_many
-- Reserves `token_counts` tokens of each bucket, locked in the order of their keys; returns for each bucket the seconds until the
-- first token (less than zero: it is available now). The others follow at the bucket's interval.
WITH request AS (
    SELECT * FROM unnest(%(keys)s::text[], %(token_counts)s::integer[], %(intervals)s::float8[], %(bursts)s::float8[])
        AS u (key, tokens, interval, burst)
    ORDER BY key
), reserved AS (
    INSERT INTO backline.rate_bucket AS b (key, next_at)
    SELECT key, clock_timestamp() + tokens * interval * interval '1 second' FROM request ORDER BY key
    ON CONFLICT (key) DO UPDATE
        SET next_at = greatest(b.next_at, clock_timestamp()) + (excluded.next_at - clock_timestamp())
    RETURNING b.key, b.next_at
)
SELECT r.key, (extract(epoch FROM r.next_at - clock_timestamp())
    - (request.tokens - 1 + request.burst) * request.interval)::float8 AS seconds_to_first_token
FROM reserved AS r JOIN request USING (key);

-- name: ledger_add_closed_days
-- Inserts the days that are over and not in the ledger yet; each can be frozen once all current transactions have ended.
INSERT INTO backline.ledger_day (day, closing_xid)
SELECT d.day, pg_current_xact_id()  -- higher than every earlier one
FROM (SELECT generate_series(
        coalesce((SELECT max(day) + 1 FROM backline.ledger_day),
                 (SELECT (created_at AT TIME ZONE 'UTC')::date FROM backline.message ORDER BY id LIMIT 1)),
        (clock_timestamp() AT TIME ZONE 'UTC' - interval '1 minute')::date - 1, interval '1 day')::date) AS d (day)
ON CONFLICT DO NOTHING
RETURNING day;

-- name: ledger_freeze_day
-- Freezes one day whose last transaction has ended: stores how many messages were accepted, by type.
WITH day AS (
    SELECT d.day FROM backline.ledger_day AS d
    WHERE d.frozen_at IS NULL AND d.closing_xid <= pg_snapshot_xmin(pg_current_snapshot())
    ORDER BY d.day LIMIT 1 FOR UPDATE SKIP LOCKED
), counted AS (
    INSERT INTO backline.ledger (day, type, accepted)
    SELECT day.day, m.type, count(*)
    FROM day JOIN backline.message AS m
      ON m.created_at >= day.day::timestamp AT TIME ZONE 'UTC'
     AND m.created_at < (day.day + 1)::timestamp AT TIME ZONE 'UTC'
    GROUP BY day.day, m.type
)
UPDATE backline.ledger_day AS d SET frozen_at = clock_timestamp() FROM day WHERE d.day = day.day
RETURNING d.day;

-- name: ledger_conservation
-- Per type and day from `since`: how many messages were accepted, and their states now. An open day's `accepted` is not frozen.
WITH held AS (
    SELECT (created_at AT TIME ZONE 'UTC')::date AS day, type, count(*) AS held,
        count(*) FILTER (WHERE state = 'sent') AS sent,
        count(*) FILTER (WHERE state = 'suppressed') AS suppressed,
        count(*) FILTER (WHERE state = 'cancelled') AS cancelled,
        count(*) FILTER (WHERE state = 'expired') AS expired,
        count(*) FILTER (WHERE state = 'dead') AS dead,
        count(*) FILTER (WHERE state = 'scheduled') AS scheduled,
        count(*) FILTER (WHERE state = 'pending') AS pending,
        count(*) FILTER (WHERE state = 'leased') AS leased
    FROM backline.message WHERE created_at >= %(since)s::date::timestamp AT TIME ZONE 'UTC'
    GROUP BY 1, 2
)
SELECT day, type, l.accepted IS NOT NULL AS frozen, coalesce(l.accepted, h.held, 0) AS accepted,
    coalesce(sent, 0) AS sent, coalesce(suppressed, 0) AS suppressed, coalesce(cancelled, 0) AS cancelled,
    coalesce(expired, 0) AS expired, coalesce(dead, 0) AS dead, coalesce(scheduled, 0) AS scheduled,
    coalesce(pending, 0) AS pending, coalesce(leased, 0) AS leased, coalesce(l.pruned, 0) AS pruned,
    coalesce(l.accepted, h.held, 0) - coalesce(h.held, 0) - coalesce(l.pruned, 0) AS missing
FROM held AS h FULL JOIN (SELECT * FROM backline.ledger WHERE day >= %(since)s::date) AS l USING (day, type)
ORDER BY day, type;

-- name: message_prune
-- Scans the `batch_limit` messages after `after_id`, deletes those that are final, not dead, and of a frozen day before
-- `before_day`, and counts them in the ledger. Returns the last scanned id, from which the next call continues, and whether any
-- scanned message was that old.
WITH scanned AS (
    SELECT ctid AS location, id, created_at FROM backline.message
    WHERE id > %(after_id)s::bigint ORDER BY id LIMIT %(batch_limit)s::integer
), gone AS (
    DELETE FROM backline.message AS m USING backline.ledger_day AS d
    WHERE m.ctid = ANY (ARRAY(SELECT location FROM scanned)) AND m.finalized_at IS NOT NULL AND m.state <> 'dead'
      AND d.day = (m.created_at AT TIME ZONE 'UTC')::date AND d.frozen_at IS NOT NULL AND d.day < %(before_day)s::date
    RETURNING d.day, m.type
), counted AS (
    UPDATE backline.ledger AS l SET pruned = l.pruned + c.pruned
    FROM (SELECT day, type, count(*) AS pruned FROM gone GROUP BY day, type) AS c
    WHERE l.day = c.day AND l.type = c.type
)
SELECT max(id) AS last, coalesce(bool_or(created_at < %(before_day)s::date::timestamp AT TIME ZONE 'UTC'), false) AS old,
    (SELECT count(*) FROM gone) AS pruned
FROM scanned;

-- name: idempotency_prune
-- Deletes up to `batch_limit` expired keys.
DELETE FROM backline.idempotency AS i USING (
    SELECT caller, scope, key FROM backline.idempotency WHERE expires_at < statement_timestamp()
    LIMIT %(batch_limit)s::integer FOR UPDATE SKIP LOCKED) AS old
WHERE (i.caller, i.scope, i.key) = (old.caller, old.scope, old.key)
RETURNING 1 AS pruned;

-- name: delivery_event_prune
-- Deletes up to `batch_limit` events that are older than the history.
DELETE FROM backline.delivery_event WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM backline.delivery_event
    WHERE received_at < clock_timestamp() - %(retention_days)s::integer * interval '1 day'
    ORDER BY received_at LIMIT %(batch_limit)s::integer FOR UPDATE SKIP LOCKED))
RETURNING 1 AS pruned;

-- name: daily_send_count_prune
-- Deletes up to `batch_limit` daily counts whose day is over in every time zone.
DELETE FROM backline.daily_send_count WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM backline.daily_send_count WHERE day < (clock_timestamp() AT TIME ZONE 'UTC')::date - 2
    ORDER BY day LIMIT %(batch_limit)s::integer FOR UPDATE SKIP LOCKED))
RETURNING 1 AS pruned;

-- name: attempt_partitions_create
-- Creates the attempt partitions of the coming days.
SELECT backline.attempt_partitions_create((clock_timestamp() AT TIME ZONE 'UTC')::date, %(days)s::integer) AS created;

-- name: attempt_partitions_drop
-- Drops the attempt partitions that are older than the history.
SELECT backline.attempt_partitions_drop((clock_timestamp() AT TIME ZONE 'UTC')::date - %(retention_days)s::integer) AS dropped;

-- name: message_enqueue_many
-- Enqueues messages of one type with equal options; returns their ids in the order given. See backline.enqueue_many.
SELECT backline.enqueue_many(%(type)s::text, %(recipients)s::text[], %(payloads)s::text[]::jsonb[], %(due_at)s::timestamptz,
    %(priority)s::integer, %(expires_at)s::timestamptz, %(request_id)s::text, %(lane)s::text,
    %(idempotency_keys)s::text[], %(replay_of)s::bigint, %(key_scope)s::text) AS ids;

-- name: idempotency_claim_batch
-- Takes one idempotency key for a batch of messages of any types. Returns the ids of the first batch with this key and content, or
-- null: then enqueue it and store its ids. See backline.idempotency_claim.
SELECT backline.idempotency_claim(%(key)s::text, %(key_scope)s::text, 'batch',
    sha256(string_agg(backline.content_hash(t, m.recipient, m.payload, NULL), NULL ORDER BY m.position)), '{}') AS ids
FROM unnest(%(types)s::text[], %(recipients)s::text[], %(payloads)s::text[]::jsonb[])
    WITH ORDINALITY AS m (type, recipient, payload, position)
LEFT JOIN backline.message_type AS t ON t.name = m.type;

-- name: idempotency_set_ids
-- Stores the ids of a batch whose key this transaction has taken.
UPDATE backline.idempotency SET ids = %(ids)s::bigint[]
WHERE caller = backline.calling_role() AND scope = %(key_scope)s::text AND key = %(key)s::text;

-- name: channel_sync
-- Stores the form of one channel's recipients.
INSERT INTO backline.channel (name, recipient, max_length, problem)
VALUES (%(name)s::text, %(recipient)s::text, %(max_length)s::integer, %(problem)s::text)
ON CONFLICT (name) DO UPDATE SET recipient = excluded.recipient, max_length = excluded.max_length, problem = excluded.problem;

-- name: message_type_sync
-- Stores one message type for backline.enqueue.
INSERT INTO backline.message_type AS t (name, version, field_names, rules, small_size, max_size, limits, maxima, secret_fields, lifetime,
                                      route, routes)
SELECT %(name)s::text, %(version)s::smallint, %(field_names)s::text[], %(rules)s::text::jsonpath, %(small_size)s::integer, %(max_size)s::integer,
    %(limits)s::text[]::jsonpath[], %(maxima)s::integer[], %(secret_fields)s::text[], %(lifetime)s::interval,
    CASE WHEN cardinality(r.routes) = 1 THEN r.routes[1] END, r.routes
FROM (SELECT array_agg(r) AS routes FROM jsonb_populate_recordset(NULL::backline.route, %(routes)s::jsonb) AS r) AS r
ON CONFLICT (name) DO UPDATE
SET version = excluded.version, field_names = excluded.field_names, rules = excluded.rules, small_size = excluded.small_size,
    max_size = excluded.max_size, limits = excluded.limits, maxima = excluded.maxima, secret_fields = excluded.secret_fields,
    lifetime = excluded.lifetime, route = excluded.route, routes = excluded.routes;

-- name: field_rule_delete
-- Deletes the rules of a type's fields.
DELETE FROM backline.field_rule WHERE type = %(type)s::text;

-- name: field_rule_insert
-- Stores the rules of one field.
INSERT INTO backline.field_rule (type, position, name, rule, path, limits, maxima)
VALUES (%(type)s::text, %(position)s::smallint, %(name)s::text, %(rule)s::jsonb, %(path)s::text::jsonpath,
    %(limits)s::text[]::jsonpath[], %(maxima)s::integer[]);

-- name: lane_sync
-- Stores one lane for backline.enqueue.
INSERT INTO backline.lane (name, channel, priority) VALUES (%(name)s::text, %(channel)s::text, %(priority)s::smallint)
ON CONFLICT (name) DO UPDATE SET channel = excluded.channel, priority = excluded.priority;

-- name: lane_delete_missing
-- Deletes lanes that are no longer in the settings.
DELETE FROM backline.lane WHERE name <> ALL (%(names)s::text[]);
