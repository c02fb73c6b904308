-- The outbox engine's statements. All times are the database's clock.
-- Rows that a statement has locked are updated by their place (ctid), which a lock keeps: one index descent less each.
-- `ctid = ANY (ARRAY(...))` and not a join, which the planner may turn into a hash of the whole table.

-- name: message_promote
-- Makes messages that came due pending, at most `batch_limit`; returns one row each. (clock_timestamp would be asked anew for each row,
-- and so could not bound the walk through the index: it would read all that is due tomorrow.)
UPDATE backline.message AS m SET state = 'pending'
WHERE m.ctid = ANY (ARRAY(
    SELECT ctid FROM backline.message
    WHERE state = 'scheduled' AND due_at <= statement_timestamp()
    ORDER BY due_at LIMIT %(batch_limit)s::integer FOR UPDATE SKIP LOCKED))
RETURNING m.lane;

-- name: message_expire
-- Ends messages that nobody holds and whose time is over, at most `batch_limit`; secrets are erased.
UPDATE backline.message AS m
SET state = 'expired', finalized_at = clock_timestamp(), payload = m.payload - t.secret_fields,
    error = 'expired before it could be sent'
FROM backline.message_type AS t
WHERE t.name = m.type AND m.ctid = ANY (ARRAY(
    SELECT ctid FROM backline.message
    WHERE state IN ('scheduled', 'pending') AND expires_at IS NOT NULL AND expires_at <= statement_timestamp()
    ORDER BY expires_at LIMIT %(batch_limit)s::integer FOR UPDATE SKIP LOCKED))
RETURNING m.lane;

-- name: message_claim
-- Takes up to `batch_limit` due messages of a lane under a fresh lease, first priority first, of those after a place in that order:
-- (-32768, '-infinity', 0) is before the first. It does not wait for the disk: a claim that a crash undoes is found out by its
-- completion, which is durable, and with it all that went before.
-- `has_preferences`: whether any recipient has any to be looked up; looked at once a claim.
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
RETURNING m.id, m.type, m.type_version, m.recipient, m.payload, m.created_at, m.attempt, m.max_attempts,
    m.rate_token_reserved, m.lease_token, m.priority, m.due_at, extract(epoch FROM m.expires_at - clock_timestamp())::float8 AS seconds_to_live,
    EXISTS (SELECT FROM backline.suppression) OR EXISTS (SELECT FROM backline.opt_out)
        OR EXISTS (SELECT FROM backline.recipient_preference) AS has_preferences;

-- name: message_claim_rescued
-- Takes one message whose dispatcher had died: such a one travels alone, in case it was the killer.
UPDATE backline.message AS m
SET state = 'leased', lease_token = %(token)s::uuid, dispatcher = %(dispatcher)s::bigint,
    leased_until = clock_timestamp() + %(lease_seconds)s::float8 * interval '1 second'
WHERE m.ctid = ANY (ARRAY(
    SELECT ctid FROM backline.message
    WHERE state = 'pending' AND rescues > 0 AND lane = %(lane)s::text
    ORDER BY priority DESC, due_at, id
    LIMIT 1 FOR UPDATE SKIP LOCKED))
RETURNING m.id, m.type, m.type_version, m.recipient, m.payload, m.created_at, m.attempt, m.max_attempts,
    m.rate_token_reserved, m.lease_token, m.priority, m.due_at, extract(epoch FROM m.expires_at - clock_timestamp())::float8 AS seconds_to_live, true AS has_preferences;

-- name: message_lease_one
-- Leases one message by id for a run that delivers it itself; no row if it is final, not due or held by another.
UPDATE backline.message AS m
SET state = 'leased', lease_token = %(token)s::uuid, dispatcher = NULL,
    leased_until = clock_timestamp() + %(lease_seconds)s::float8 * interval '1 second'
WHERE m.id = %(id)s::bigint AND NOT m.cancel_requested
  AND (m.state = 'pending' OR m.state = 'scheduled' AND m.due_at <= clock_timestamp()
       OR m.state = 'leased' AND m.leased_until < clock_timestamp())
RETURNING m.id, m.type, m.type_version, m.recipient, m.payload, m.created_at, m.attempt, m.max_attempts,
    m.rate_token_reserved, m.lease_token, m.priority, m.due_at, extract(epoch FROM m.expires_at - clock_timestamp())::float8 AS seconds_to_live, true AS has_preferences;

-- name: message_status
-- Where one message stands.
SELECT id, type, channel, lane, priority, state, recipient, due_at, expires_at, attempt, max_attempts, rescues,
    request_id, group_id, replay_of, created_at, finalized_at, error_class, error, provider_id,
    extract(epoch FROM greatest(due_at, coalesce(leased_until, due_at)) - clock_timestamp())::float8 AS seconds_to_due
FROM backline.message WHERE id = %(id)s::bigint;

-- name: message_list_enqueued
-- What enqueue took in under the id that it gave: the message, or the messages of a group, whose ids follow the group's own.
-- An event for every webhook endpoint is a message by itself; what it becomes for each is the lane's to send.
SELECT id, channel FROM backline.message
WHERE id = %(id)s::bigint OR id > %(id)s::bigint AND id <= %(id)s::bigint + 100000 AND group_id = %(id)s::bigint
    AND NOT EXISTS (SELECT FROM backline.message AS own WHERE own.id = %(id)s::bigint)
ORDER BY id;

-- name: message_attempts
-- The attempts of one message, first to last.
SELECT number, started_at, duration_ms, outcome, error_class, code, response, dispatcher, dag_run
FROM backline.attempt WHERE message_id = %(id)s::bigint ORDER BY number, started_at;

-- name: message_complete_many
-- Ends attempts, fenced by lease token; returns the ids that were still ours. A try that ends in `scheduled` is a retry
-- after `delay` seconds, or the end (expired) if that is too late, or (cancelled) if a person took the message back
-- meanwhile. Secrets of final messages are erased; one attempt row is written for each.
-- A lateral join, so that each message is found by its id whatever the statistics say: with an open choice the planner
-- likes the small index of leased messages, and reads all of them for each one.
WITH done AS (
    SELECT * FROM json_to_recordset(%(outcomes)s::json) AS u (
        message_id bigint, token uuid, state backline.message_state, delay float8, error_class text, error text,
        provider_id text, code text, response text, age float8, duration float8)
), decided AS (
    SELECT done.*, m.attempt + 1 AS number, clock_timestamp() AS at, t.secret_fields,
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
    JOIN backline.message_type AS t ON t.name = m.type
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
-- Gives back messages that were claimed and not tried; fenced. Costs neither an attempt nor a rescue.
UPDATE backline.message AS m
SET state = CASE WHEN m.cancel_requested THEN 'cancelled' ELSE 'pending' END::backline.message_state,
    finalized_at = CASE WHEN m.cancel_requested THEN clock_timestamp() END,
    payload = CASE WHEN m.cancel_requested THEN m.payload - t.secret_fields ELSE m.payload END,
    lease_token = NULL, leased_until = NULL, dispatcher = NULL
FROM unnest(%(ids)s::bigint[], %(tokens)s::uuid[]) AS u (id, token), backline.message_type AS t
WHERE m.id = u.id AND m.lease_token = u.token AND t.name = m.type
RETURNING m.id;

-- name: message_defer_many
-- Defers claimed messages, fenced by lease token, without using up an attempt: for `reason`, or, if that is null, to the time
-- of the rate token that is now reserved for them. One with a cancellation request is cancelled.
UPDATE backline.message AS m
SET state = CASE WHEN m.cancel_requested THEN 'cancelled' ELSE 'scheduled' END::backline.message_state,
    finalized_at = CASE WHEN m.cancel_requested THEN clock_timestamp() END,
    payload = CASE WHEN m.cancel_requested THEN m.payload - t.secret_fields ELSE m.payload END,
    rate_token_reserved = m.rate_token_reserved OR %(reason)s::text IS NULL,
    error_class = CASE WHEN %(reason)s::text IS NULL THEN m.error_class END, error = coalesce(%(reason)s::text, m.error),
    lease_token = NULL, leased_until = NULL, dispatcher = NULL,
    due_at = clock_timestamp() + u.delay * interval '1 second'
FROM unnest(%(ids)s::bigint[], %(tokens)s::uuid[], %(delays)s::float8[]) AS u (id, token, delay), backline.message_type AS t
WHERE m.id = u.id AND m.lease_token = u.token AND t.name = m.type
RETURNING m.id;

-- name: message_renew
-- Lengthens leases, fenced; returns the messages that were still ours.
UPDATE backline.message AS m
SET leased_until = clock_timestamp() + %(lease_seconds)s::float8 * interval '1 second'
FROM unnest(%(ids)s::bigint[], %(tokens)s::uuid[]) AS u (id, token)
WHERE m.id = u.id AND m.lease_token = u.token
RETURNING m.id;

-- name: message_cancel_requests
-- Messages in a dispatcher's hands that somebody has taken back.
SELECT id FROM backline.message
WHERE state = 'leased' AND dispatcher = %(dispatcher)s::bigint AND cancel_requested;

-- name: message_rescue
-- Takes messages from the dead: expired leases, and those of dispatchers that are gone or whose heartbeat stopped.
-- Too many rescues end it: the message may be what kills them.
WITH gone AS (
    DELETE FROM backline.dispatcher
    WHERE heartbeat_at < clock_timestamp() - %(heartbeat_timeout)s::float8 * interval '1 second'
    RETURNING id
), stale AS (
    SELECT m.id, CASE
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
)
UPDATE backline.message AS m
SET state = s.next_state, rescues = m.rescues + 1, lease_token = NULL, leased_until = NULL, dispatcher = NULL,
    finalized_at = CASE WHEN s.next_state <> 'pending' THEN clock_timestamp() END,
    payload = CASE WHEN s.next_state <> 'pending' THEN m.payload - t.secret_fields ELSE m.payload END,
    error_class = CASE WHEN s.next_state = 'dead' THEN 'unknown' ELSE m.error_class END,
    error = CASE WHEN s.next_state = 'dead'
        THEN 'its dispatcher died ' || (m.rescues + 1) || ' times while it held this message; it may be what kills it'
        ELSE m.error END
FROM stale AS s, backline.message_type AS t
WHERE m.id = s.id AND t.name = m.type
RETURNING m.id, m.lane, m.state;

-- name: message_cancel
-- Takes a message back: at once if nobody holds it, else its holder is asked. Returns the state that it is in now.
UPDATE backline.message AS m
SET state = CASE WHEN m.state = 'leased' THEN 'leased' ELSE 'cancelled' END::backline.message_state,
    cancel_requested = true,
    finalized_at = CASE WHEN m.state = 'leased' THEN NULL ELSE clock_timestamp() END,
    payload = CASE WHEN m.state = 'leased' THEN m.payload ELSE m.payload - t.secret_fields END
FROM backline.message_type AS t
WHERE m.id = %(id)s::bigint AND m.state IN ('scheduled', 'pending', 'leased') AND t.name = m.type
RETURNING m.state;

-- name: message_replace_payload
-- Gives a message that waits for its time, and was not tried yet, another payload, and makes it due; no row if it waits no more.
UPDATE backline.message AS m
SET payload = %(payload)s::jsonb, type_version = %(type_version)s::smallint, state = 'pending', due_at = clock_timestamp()
WHERE m.id = %(id)s::bigint AND m.state = 'scheduled' AND m.attempt = 0
RETURNING m.state;

-- name: message_retry
-- Revives a dead message under its own id, with as many attempts as its type has; not one whose secrets are erased.
UPDATE backline.message AS m
SET state = 'pending', finalized_at = NULL, due_at = clock_timestamp(), rescues = 0, cancel_requested = false,
    max_attempts = m.attempt + coalesce((SELECT r.max_attempts FROM unnest(t.routes) AS r WHERE r.channel = m.channel), 1)
FROM backline.message_type AS t
WHERE m.id = %(id)s::bigint AND m.state = 'dead' AND t.name = m.type AND cardinality(t.secret_fields) = 0
  AND (m.expires_at IS NULL OR m.expires_at > clock_timestamp())
RETURNING m.state;

-- name: dispatcher_register
-- Takes a free slot of a lane; no row if all are served. Tells whether it takes over from one that hands over.
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
-- Says that a dispatcher lives, and hears whether it should stop and whether a successor is there.
-- No row: it was taken for dead, and its messages are no longer its own.
UPDATE backline.dispatcher AS d
SET heartbeat_at = clock_timestamp(), handing_over = d.handing_over OR %(handing_over)s::boolean
WHERE d.id = %(dispatcher)s::bigint
RETURNING d.stop_requested, EXISTS (
    SELECT FROM backline.dispatcher AS s WHERE s.lane = d.lane AND s.id > d.id AND NOT s.handing_over) AS has_successor;

-- name: dispatcher_unregister
-- Ends a dispatcher; what it still holds is rescued.
DELETE FROM backline.dispatcher WHERE id = %(dispatcher)s::bigint RETURNING id;

-- name: dispatcher_stop_all
-- Asks every dispatcher to stop.
UPDATE backline.dispatcher SET stop_requested = true RETURNING id;

-- name: dispatcher_count
-- Dispatchers whose heart beats.
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
-- For the poller: what waits in each lane (counted up to `count_limits` of that lane), the message at its head, and who serves it.
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
-- Tokens that a lane has now, and the seconds until the next; locks the bucket (run it in the claim's transaction).
INSERT INTO backline.rate_bucket AS b (key, next_at) VALUES (%(key)s::text, clock_timestamp())
ON CONFLICT (key) DO UPDATE SET next_at = greatest(b.next_at, clock_timestamp())
RETURNING
    greatest(0, floor(%(burst)s::float8 - extract(epoch FROM b.next_at - clock_timestamp()) / %(interval)s::float8
        + 1e-6))::integer AS tokens,
    greatest(0, extract(epoch FROM b.next_at - clock_timestamp())
        - (%(burst)s::float8 - 1) * %(interval)s::float8)::float8 AS wait_seconds;

-- name: rate_lane_spend
-- Spends tokens of a lane's bucket that is locked by this transaction.
UPDATE backline.rate_bucket SET next_at = next_at + %(spent)s::integer * %(interval)s::float8 * interval '1 second'
WHERE key = %(key)s::text;

-- name: rate_reserve_many
-- Reserves `token_counts` tokens of each bucket, locked in the order of their keys; returns for each the seconds until the
-- first of them comes (less than zero: it is there already), the next ones following at the bucket's interval.
WITH wish AS (
    SELECT * FROM unnest(%(keys)s::text[], %(token_counts)s::integer[], %(intervals)s::float8[], %(bursts)s::float8[])
        AS u (key, wanted, interval, burst)
    ORDER BY key
), reserved AS (
    INSERT INTO backline.rate_bucket AS b (key, next_at)
    SELECT key, clock_timestamp() + wanted * interval * interval '1 second' FROM wish ORDER BY key
    ON CONFLICT (key) DO UPDATE
        SET next_at = greatest(b.next_at, clock_timestamp()) + (excluded.next_at - clock_timestamp())
    RETURNING b.key, b.next_at
)
SELECT r.key, (extract(epoch FROM r.next_at - clock_timestamp())
    - (wish.wanted - 1 + wish.burst) * wish.interval)::float8 AS seconds_to_first_token
FROM reserved AS r JOIN wish USING (key);

-- name: ledger_add_closed_days
-- Notes the days that are over and not yet in the ledger; each can be frozen once all transactions of now have ended.
INSERT INTO backline.ledger_day (day, closing_xid)
SELECT d.day, pg_current_xact_id()  -- above every one that was given before
FROM (SELECT generate_series(
        coalesce((SELECT max(day) + 1 FROM backline.ledger_day),
                 (SELECT (created_at AT TIME ZONE 'UTC')::date FROM backline.message ORDER BY id LIMIT 1)),
        (clock_timestamp() AT TIME ZONE 'UTC' - interval '1 minute')::date - 1, interval '1 day')::date) AS d (day)
ON CONFLICT DO NOTHING
RETURNING day;

-- name: ledger_freeze_day
-- Freezes one day whose last transaction has ended: how many messages were accepted, by type.
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
-- Per type and day from `since`: what was accepted against where it is now. An open day's `accepted` is not frozen yet.
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
-- Looks at the `batch_limit` messages that follow `after_id` by id, deletes those that are finished and of a frozen day before `before_day`,
-- and counts them in the ledger. Returns the last id that it looked at and whether any of them was that old; the next look
-- goes on from there, past what is dead or waits.
WITH looked AS (
    SELECT ctid AS place, id, created_at FROM backline.message
    WHERE id > %(after_id)s::bigint ORDER BY id LIMIT %(batch_limit)s::integer
), gone AS (
    DELETE FROM backline.message AS m USING backline.ledger_day AS d
    WHERE m.ctid = ANY (ARRAY(SELECT place FROM looked)) AND m.finalized_at IS NOT NULL AND m.state <> 'dead'
      AND d.day = (m.created_at AT TIME ZONE 'UTC')::date AND d.frozen_at IS NOT NULL AND d.day < %(before_day)s::date
    RETURNING d.day, m.type
), counted AS (
    UPDATE backline.ledger AS l SET pruned = l.pruned + c.pruned
    FROM (SELECT day, type, count(*) AS pruned FROM gone GROUP BY day, type) AS c
    WHERE l.day = c.day AND l.type = c.type
)
SELECT max(id) AS last, coalesce(bool_or(created_at < %(before_day)s::date::timestamp AT TIME ZONE 'UTC'), false) AS old,
    (SELECT count(*) FROM gone) AS pruned
FROM looked;

-- name: idempotency_prune
-- Forgets up to `batch_limit` keys whose time is over.
DELETE FROM backline.idempotency AS i USING (
    SELECT type, channel, key FROM backline.idempotency WHERE expires_at < statement_timestamp()
    LIMIT %(batch_limit)s::integer FOR UPDATE SKIP LOCKED) AS old
WHERE (i.type, i.channel, i.key) = (old.type, old.channel, old.key)
RETURNING 1 AS pruned;

-- name: delivery_event_prune
-- Forgets up to `batch_limit` events that are older than the history.
DELETE FROM backline.delivery_event WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM backline.delivery_event
    WHERE received_at < clock_timestamp() - %(retention_days)s::integer * interval '1 day'
    ORDER BY received_at LIMIT %(batch_limit)s::integer FOR UPDATE SKIP LOCKED))
RETURNING 1 AS pruned;

-- name: daily_send_count_prune
-- Forgets up to `batch_limit` recipients' days that are over, in every zone.
DELETE FROM backline.daily_send_count WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM backline.daily_send_count WHERE day < (clock_timestamp() AT TIME ZONE 'UTC')::date - 2
    ORDER BY day LIMIT %(batch_limit)s::integer FOR UPDATE SKIP LOCKED))
RETURNING 1 AS pruned;

-- name: attempt_partitions_create
-- Makes the attempt partitions of the coming days.
SELECT backline.attempt_partitions_create((clock_timestamp() AT TIME ZONE 'UTC')::date, %(days)s::integer) AS created;

-- name: attempt_partitions_drop
-- Drops the attempt partitions that are older than the history.
SELECT backline.attempt_partitions_drop((clock_timestamp() AT TIME ZONE 'UTC')::date - %(retention_days)s::integer) AS dropped;

-- name: message_enqueue_many
-- Enqueues messages of one type with equal options; returns their ids in the order given. See backline.enqueue_many.
SELECT backline.enqueue_many(%(type)s::text, %(recipients)s::text[], %(payloads)s::text[]::jsonb[], %(due_at)s::timestamptz,
    %(priority)s::integer, %(expires_at)s::timestamptz, %(request_id)s::text, %(lane)s::text,
    %(idempotency_keys)s::text[], %(replay_of)s::bigint) AS ids;

-- name: message_type_sync
-- Makes one message type known to backline.enqueue.
INSERT INTO backline.message_type AS t (name, version, fields, field_names, secret_fields, routes)
SELECT %(name)s::text, %(version)s::smallint,
    coalesce((SELECT array_agg(f) FROM jsonb_populate_recordset(NULL::backline.field_rule, %(fields)s::jsonb) AS f), '{}'),
    %(field_names)s::text[], %(secret_fields)s::text[],
    (SELECT array_agg(r) FROM jsonb_populate_recordset(NULL::backline.route, %(routes)s::jsonb) AS r)
ON CONFLICT (name) DO UPDATE
SET version = excluded.version, fields = excluded.fields, field_names = excluded.field_names, secret_fields = excluded.secret_fields,
    routes = excluded.routes;

-- name: lane_sync
-- Makes one lane known to backline.enqueue.
INSERT INTO backline.lane (name, channel, priority) VALUES (%(name)s::text, %(channel)s::text, %(priority)s::smallint)
ON CONFLICT (name) DO UPDATE SET channel = excluded.channel, priority = excluded.priority;

-- name: lane_delete_missing
-- Removes lanes that are no longer in the settings.
DELETE FROM backline.lane WHERE name <> ALL (%(names)s::text[]);
