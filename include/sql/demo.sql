-- What the demo asks the outbox from outside, as an app or an operator would.

-- name: enqueue_batch
-- Many messages of one type at once, by its own lane or another one; returns their ids in the order given.
SELECT unnest(backline.enqueue_many(%(type)s::text, %(recipients)s::text[], %(payloads)s::jsonb[],
    lane => %(lane)s::text)) AS id;

-- name: states_of
-- Where each of these messages stands.
SELECT id, state, attempt, error_class, error FROM backline.message WHERE id = ANY (%(ids)s::bigint[]);

-- name: unfinished_of
-- How many of these messages have not ended yet.
SELECT count(*)::integer AS unfinished FROM backline.message
WHERE id = ANY (%(ids)s::bigint[]) AND finalized_at IS NULL;

-- name: enqueued_to
-- Messages to the recipients that match a LIKE pattern, created at or after `since`.
SELECT id, recipient FROM backline.message
WHERE recipient LIKE %(pattern)s::text AND created_at >= %(since)s::timestamptz;

-- name: dispatchers_at_work
-- A lane's dispatchers and how many messages each holds, the busiest first.
SELECT d.id, d.dag_run, count(m.id)::integer AS held
FROM backline.dispatcher AS d
LEFT JOIN backline.message AS m ON m.dispatcher = d.id AND m.state = 'leased'
WHERE d.lane = %(lane)s::text AND d.dag_run IS NOT NULL
GROUP BY d.id, d.dag_run ORDER BY held DESC;
