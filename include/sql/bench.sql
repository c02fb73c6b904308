-- Statements of the benches, as an app would execute them.

-- name: email_enqueue
-- Enqueues one email.
SELECT backline.enqueue(%(type)s::text, %(recipient)s::text, %(payload)s::jsonb) AS id;


-- name: message_enqueue_many
-- Enqueues messages of one type in one statement; recipients and payloads in the same order.
SELECT unnest(backline.enqueue_many(%(type)s::text, %(recipients)s::text[], %(payloads)s::jsonb[],
    lane => %(lane)s::text)) AS id;

-- name: message_any_unfinished
-- Whether any message of a range of ids is not final.
SELECT EXISTS (SELECT FROM backline.message
               WHERE id BETWEEN %(first)s::bigint AND %(last)s::bigint AND finalized_at IS NULL) AS any;

-- name: message_drain_stats
-- How many of these messages were sent, in how many attempts, and when (epoch seconds, the database's clock).
SELECT count(*) FILTER (WHERE m.state = 'sent') AS sent, count(*) AS attempts,
    extract(epoch FROM min(a.started_at))::float8 AS first_attempt_at,
    extract(epoch FROM max(m.finalized_at))::float8 AS last_finalized_at
FROM backline.message AS m JOIN backline.attempt AS a ON a.message_id = m.id
WHERE m.id = ANY (%(ids)s::bigint[]);

-- name: message_latencies
-- Milliseconds from the INSERT to the end of the attempt that sent it, for each sent message.
SELECT (extract(epoch FROM a.started_at - m.created_at) * 1000 + a.duration_ms)::float8 AS ms
FROM backline.message AS m JOIN backline.attempt AS a ON a.message_id = m.id
WHERE m.id = ANY (%(ids)s::bigint[]) AND a.outcome = 'sent' ORDER BY m.id;

-- name: lane_has_waiting
-- Whether a lane has pending or leased messages.
SELECT EXISTS (SELECT FROM backline.message
               WHERE lane = %(lane)s::text AND state IN ('pending', 'leased')) AS any;

-- name: dispatcher_live_count
-- How many live dispatchers a lane has.
SELECT count(*) AS dispatchers FROM backline.dispatcher
WHERE lane = %(lane)s::text AND NOT handing_over AND heartbeat_at > clock_timestamp() - interval '5 seconds';
