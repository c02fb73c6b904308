-- What the benches ask the outbox, as an app would.

-- name: email_enqueue
-- One letter, in a transaction of its own.
SELECT backline.enqueue(%(type)s::text, %(recipient)s::text, %(payload)s::jsonb) AS id;

-- name: email_enqueue_many
-- Letters in one statement; recipients and payloads in the same order.
SELECT unnest(backline.enqueue_many('templated_email', %(recipients)s::text[], %(payloads)s::jsonb[],
    lane => %(lane)s::text)) AS id;

-- name: message_enqueue_many
-- Messages of one type in one statement; recipients and payloads in the same order.
SELECT unnest(backline.enqueue_many(%(type)s::text, %(recipients)s::text[], %(payloads)s::jsonb[],
    lane => %(lane)s::text)) AS id;

-- name: message_any_unfinished
-- Whether any of a span of ids has not ended.
SELECT EXISTS (SELECT FROM backline.message
               WHERE id BETWEEN %(first)s::bigint AND %(last)s::bigint AND finalized_at IS NULL) AS any;

-- name: message_drain_stats
-- How many of these were sent, in how many attempts, and from when to when (epoch seconds, the database's clock).
SELECT count(*) FILTER (WHERE m.state = 'sent') AS sent, count(*) AS attempts,
    extract(epoch FROM min(a.started_at))::float8 AS first_attempt_at,
    extract(epoch FROM max(m.finalized_at))::float8 AS last_finalized_at
FROM backline.message AS m JOIN backline.attempt AS a ON a.message_id = m.id
WHERE m.id = ANY (%(ids)s::bigint[]);

-- name: message_latencies
-- Milliseconds from the INSERT to the end of the try in which the server took it, of those that were sent.
SELECT (extract(epoch FROM a.started_at - m.created_at) * 1000 + a.duration_ms)::float8 AS ms
FROM backline.message AS m JOIN backline.attempt AS a ON a.message_id = m.id
WHERE m.id = ANY (%(ids)s::bigint[]) AND a.outcome = 'sent' ORDER BY m.id;

-- name: lane_has_waiting
-- Whether anything of a lane is still to be sent.
SELECT EXISTS (SELECT FROM backline.message
               WHERE lane = %(lane)s::text AND state IN ('pending', 'leased')) AS any;

-- name: dispatcher_live_count
-- How many dispatchers serve a lane now.
SELECT count(*) AS dispatchers FROM backline.dispatcher
WHERE lane = %(lane)s::text AND NOT handing_over AND heartbeat_at > clock_timestamp() - interval '5 seconds';
