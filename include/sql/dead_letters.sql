-- Dead letters: recording, reading, closing and archiving them, and the alerts about them.

-- name: job_record
-- Records a failed task of a run, or a failed run: one row, however often it is reported. The cause known with higher
-- certainty is kept; a later failure of the same task (it was cleared) reopens the dead letter. A failed send_* run whose
-- message is in the outbox is not recorded: the message's own failure is. Returns the dead letter's id, or no row.
INSERT INTO backline.dead_letter AS d
    (kind, name, run_id, task_id, map_index, class, cause, certainty, attempts, conf, log_url, failed_at)
SELECT 'job', %(dag_id)s::text, %(run_id)s::text, %(task_id)s::text, %(map_index)s::integer, %(class)s::text,
    left(%(cause)s::text, 4096), %(certainty)s::smallint, %(attempts)s::integer, %(conf)s::jsonb, %(log_url)s::text,
    %(failed_at)s::timestamptz
WHERE NOT EXISTS (
    SELECT FROM backline.idempotency AS i
    WHERE starts_with(%(dag_id)s::text, 'send_') AND i.caller = backline.calling_role() AND i.scope = ''
      AND i.key = %(dag_id)s::text || '/' || %(run_id)s::text)
ON CONFLICT (name, run_id, task_id, map_index) WHERE kind = 'job' DO UPDATE
SET class = CASE WHEN excluded.certainty >= d.certainty OR excluded.attempts > d.attempts THEN excluded.class ELSE d.class END,
    cause = CASE WHEN excluded.certainty >= d.certainty OR excluded.attempts > d.attempts THEN excluded.cause ELSE d.cause END,
    certainty = CASE WHEN excluded.attempts > d.attempts THEN excluded.certainty
        ELSE greatest(excluded.certainty, d.certainty) END,
    attempts = greatest(excluded.attempts, d.attempts), conf = excluded.conf, log_url = excluded.log_url,
    last_seen_at = clock_timestamp(), failed_at = greatest(excluded.failed_at, d.failed_at),
    state = CASE WHEN backline.is_new_failure(d, excluded.attempts, excluded.failed_at) THEN 'open' ELSE d.state END,
    alerted_at = CASE WHEN backline.is_new_failure(d, excluded.attempts, excluded.failed_at) THEN NULL ELSE d.alerted_at END,
    closed_at = CASE WHEN backline.is_new_failure(d, excluded.attempts, excluded.failed_at) THEN NULL ELSE d.closed_at END
RETURNING id;

-- name: item_record
-- Records an item of a job that failed permanently: one row per item, however often it fails, reopened if it was closed.
INSERT INTO backline.dead_letter AS d
    (kind, name, item_key, item_fingerprint, run_id, class, cause, attempts, conf, failed_at)
VALUES ('item', %(job)s::text, left(%(item_key)s::text, 255), %(item_fingerprint)s::text, %(run_id)s::text, %(class)s::text,
    left(%(cause)s::text, 4096), 1, %(conf)s::jsonb, clock_timestamp())
ON CONFLICT (name, item_key) WHERE kind = 'item' DO UPDATE
SET item_fingerprint = excluded.item_fingerprint, run_id = excluded.run_id, class = excluded.class, cause = excluded.cause,
    attempts = d.attempts + 1, conf = excluded.conf, failed_at = excluded.failed_at, last_seen_at = clock_timestamp(),
    alerted_at = CASE WHEN d.state = 'open' THEN d.alerted_at END,
    state = 'open', reason = NULL, closed_by = NULL, closed_at = NULL, replay_ref = NULL
RETURNING id;

-- name: item_list_open
-- Items of a job that have an open dead letter, with the fingerprint of the data that failed.
SELECT d.item_key, d.item_fingerprint FROM backline.dead_letter AS d
WHERE d.kind = 'item' AND d.name = %(job)s::text AND d.state = 'open';

-- name: item_resolve
-- Closes the dead letter of an item that has since succeeded.
UPDATE backline.dead_letter
SET state = 'resolved', closed_at = clock_timestamp(), closed_by = 'backline', reason = 'the item succeeded in a later run'
WHERE kind = 'item' AND name = %(job)s::text AND item_key = left(%(item_key)s::text, 255) AND state = 'open'
RETURNING id;

-- name: message_record_missing
-- Records dead messages that have no dead letter, after manual changes or a clock that was set back; returns the ids.
INSERT INTO backline.dead_letter (kind, name, message_id, class, cause, attempts, failed_at)
SELECT 'message', m.type, m.id, coalesce(m.error_class, 'unknown'),
    left(coalesce(m.error, 'no reason was given'), 4096), m.attempt, m.finalized_at
FROM backline.message AS m
WHERE m.state = 'dead' AND NOT EXISTS (
    SELECT FROM backline.dead_letter AS d
    WHERE d.kind = 'message' AND d.message_id = m.id AND d.failed_at = m.finalized_at)
ON CONFLICT DO NOTHING
RETURNING id;

-- name: import_record
-- Records an import error of a DAG file: one row per error text, reopened if it was closed and the error is back.
INSERT INTO backline.dead_letter AS d (kind, name, bundle, error_hash, class, cause, attempts, failed_at)
VALUES ('import', %(file)s::text, %(bundle)s::text, %(error_hash)s::text, 'validation', left(%(cause)s::text, 4096), 1,
    %(failed_at)s::timestamptz)
ON CONFLICT (name, error_hash) WHERE kind = 'import' DO UPDATE
SET last_seen_at = clock_timestamp(), bundle = excluded.bundle,
    attempts = CASE WHEN d.state IN ('resolved', 'replayed') THEN d.attempts + 1 ELSE d.attempts END,
    alerted_at = CASE WHEN d.state = 'resolved' THEN NULL ELSE d.alerted_at END,
    closed_at = CASE WHEN d.state IN ('resolved', 'replayed') THEN NULL ELSE d.closed_at END,
    state = CASE WHEN d.state IN ('resolved', 'replayed') THEN 'open' ELSE d.state END
RETURNING id;

-- name: import_resolve
-- Closes the dead letters of import errors that no longer exist.
UPDATE backline.dead_letter AS d
SET state = 'resolved', closed_at = clock_timestamp(), closed_by = 'backline', reason = 'imports again, or fails with another error'
WHERE d.kind = 'import' AND d.state IN ('open', 'replayed') AND NOT EXISTS (
    SELECT FROM unnest(%(files)s::text[], %(hashes)s::text[]) AS now (file, hash)
    WHERE now.file = d.name AND now.hash = d.error_hash)
RETURNING d.id;

-- name: run_letter_list
-- Dead letters of some runs.
SELECT d.name AS dag_id, d.run_id, d.task_id, d.map_index, d.attempts, d.certainty, d.failed_at
FROM unnest(%(dag_ids)s::text[], %(run_ids)s::text[]) AS r (dag_id, run_id)
JOIN backline.dead_letter AS d ON d.kind = 'job' AND d.name = r.dag_id AND d.run_id = r.run_id;

-- name: cursor_get
-- Up to when a reader has read; no row if it never ran.
SELECT at FROM backline.scan_cursor WHERE name = %(name)s::text;

-- name: cursor_set
-- Sets up to when a reader has read; never goes back.
INSERT INTO backline.scan_cursor AS c (name, at) VALUES (%(name)s::text, %(at)s::timestamptz)
ON CONFLICT (name) DO UPDATE SET at = greatest(c.at, excluded.at);

-- name: letter_list
-- Dead letters by filter, newest first, before the id `before_id` if given; a null filter matches all.
SELECT d.id, d.kind, d.name, d.message_id, d.run_id, d.task_id, d.map_index, d.item_key, d.class, d.cause, d.attempts,
    d.conf::text AS conf, d.log_url, d.failed_at, d.first_seen_at, d.last_seen_at, d.alerted_at, d.state, d.reason, d.closed_by, d.closed_at,
    d.replay_ref
FROM backline.dead_letter AS d
WHERE (%(state)s::text IS NULL OR d.state = %(state)s::text)
  AND (%(kind)s::text IS NULL OR d.kind = %(kind)s::text)
  AND (%(name)s::text IS NULL OR d.name = %(name)s::text)
  AND (%(class)s::text IS NULL OR d.class = %(class)s::text)
  AND (%(since)s::timestamptz IS NULL OR d.last_seen_at >= %(since)s::timestamptz)
  AND (%(before_id)s::bigint IS NULL OR d.id < %(before_id)s::bigint)
ORDER BY d.id DESC LIMIT %(batch_limit)s::integer;

-- name: letter_get
-- One dead letter; for a message also its present recipient and state.
SELECT d.id, d.kind, d.name, d.message_id, d.run_id, d.task_id, d.map_index, d.item_key, d.bundle, d.class, d.cause,
    d.attempts, d.conf::text AS conf, d.log_url, d.failed_at, d.first_seen_at, d.last_seen_at, d.alerted_at, d.state, d.reason, d.closed_by, d.closed_at,
    d.replay_ref, m.state::text AS message_state, m.channel, m.lane, m.recipient, m.priority, m.request_id
FROM backline.dead_letter AS d LEFT JOIN backline.message AS m ON m.id = d.message_id
WHERE d.id = %(id)s::bigint;

-- name: letter_lock
-- Locks one dead letter, so that it is replayed or discarded once; no row if it does not exist.
SELECT state FROM backline.dead_letter WHERE id = %(id)s::bigint FOR UPDATE;

-- name: letter_close
-- Closes an open dead letter.
UPDATE backline.dead_letter
SET state = %(state)s::text, reason = %(reason)s::text, closed_by = %(by)s::text, closed_at = clock_timestamp(),
    replay_ref = %(replay_ref)s::text
WHERE id = %(id)s::bigint AND state = 'open'
RETURNING id;

-- name: run_letters_close
-- Closes every open dead letter of a run, which is replayed as a whole.
UPDATE backline.dead_letter
SET state = 'replayed', reason = %(reason)s::text, closed_by = %(by)s::text, closed_at = clock_timestamp(),
    replay_ref = %(replay_ref)s::text
WHERE kind = 'job' AND name = %(dag_id)s::text AND run_id = %(run_id)s::text AND state = 'open'
RETURNING id;


-- name: failure_group_list
-- Failures since a time, grouped by name, task and class, the most frequent first.
SELECT kind, name, nullif(task_id, '') AS task_id, class, count(*) AS failures, count(*) FILTER (WHERE state = 'open') AS open,
    min(failed_at) AS first_at, max(failed_at) AS last_at, (array_agg(cause ORDER BY failed_at DESC))[1] AS last_cause,
    max(id) AS last_id
FROM backline.dead_letter
WHERE last_seen_at >= %(since)s::timestamptz
GROUP BY kind, name, nullif(task_id, ''), class
ORDER BY failures DESC, last_at DESC LIMIT %(batch_limit)s::integer;

-- name: alert_due
-- Alert groups that have unreported failures and may send now.
SELECT w.key FROM (
    SELECT alert_group AS key, min(failed_at) AS since FROM backline.dead_letter
    WHERE alerted_at IS NULL AND state = 'open' GROUP BY alert_group
    UNION ALL
    SELECT 'late ' || dag_id, min(detected_at) FROM backline.late_run WHERE alerted_at IS NULL GROUP BY dag_id) AS w
LEFT JOIN backline.alert_group AS g USING (key)
WHERE coalesce(g.next_at <= clock_timestamp(), true)
ORDER BY w.since LIMIT %(batch_limit)s::integer;

-- name: alert_group_ensure
-- Creates the row of a group.
INSERT INTO backline.alert_group (key) VALUES (%(key)s::text) ON CONFLICT DO NOTHING;

-- name: alert_group_claim
-- Locks a group that may send now until the transaction ends; no row if another sender holds it or has just sent.
SELECT email_count, emailed_at FROM backline.alert_group
WHERE key = %(key)s::text AND next_at <= clock_timestamp() FOR UPDATE SKIP LOCKED;

-- name: alert_failures_claim
-- Marks all unreported failures of a group as reported; returns the latest, with the count and period of all.
WITH claimed AS (
    UPDATE backline.dead_letter SET alerted_at = clock_timestamp()
    WHERE alert_group = %(key)s::text AND alerted_at IS NULL AND state = 'open'
    RETURNING id, kind, name, task_id, run_id, item_key, message_id, class, cause, attempts, log_url, failed_at
)
SELECT c.*, count(*) OVER () AS failures, min(failed_at) OVER () AS first_at, max(failed_at) OVER () AS last_at
FROM claimed AS c ORDER BY c.failed_at DESC LIMIT %(batch_limit)s::integer;

-- name: alert_late_runs_claim
-- Marks all unreported late runs of a DAG as reported; returns the latest, with the count and period of all.
WITH claimed AS (
    UPDATE backline.late_run SET alerted_at = clock_timestamp()
    WHERE 'late ' || dag_id = %(key)s::text AND alerted_at IS NULL
    RETURNING dag_id, run_id, deadline_seconds, log_url, detected_at
)
SELECT c.*, count(*) OVER () AS failures, min(detected_at) OVER () AS first_at, max(detected_at) OVER () AS last_at
FROM claimed AS c ORDER BY c.detected_at DESC LIMIT %(batch_limit)s::integer;

-- name: alert_group_sent
-- Records that a group's email was sent: the next one follows no earlier than after the window.
UPDATE backline.alert_group
SET email_count = email_count + 1, emailed_at = clock_timestamp(),
    next_at = clock_timestamp() + %(window_seconds)s::float8 * interval '1 second'
WHERE key = %(key)s::text;

-- name: alert_group_defer
-- Defers a group whose email could not be sent.
UPDATE backline.alert_group SET next_at = clock_timestamp() + %(delay_seconds)s::float8 * interval '1 second'
WHERE key = %(key)s::text;

-- name: purge_candidates
-- Locks dead letters past their retention or over the limit, oldest first, and returns each with its message as JSON; not those of
-- dead messages of a day that the ledger has not frozen yet.
SELECT d.id, (to_jsonb(d) || jsonb_build_object('message',
    to_jsonb(m) - '{lease_token,leased_until,dispatcher,rate_token_reserved}'::text[]))::text AS line
FROM backline.dead_letter AS d
LEFT JOIN backline.message AS m ON m.id = d.message_id
WHERE (d.last_seen_at < clock_timestamp() - %(retention_seconds)s::float8 * interval '1 second'
       OR (d.last_seen_at, d.id) <= (
           SELECT o.last_seen_at, o.id FROM backline.dead_letter AS o
           ORDER BY o.last_seen_at DESC, o.id DESC OFFSET %(max_count)s::bigint LIMIT 1))
  AND (m.id IS NULL OR m.state <> 'dead' OR EXISTS (
      SELECT FROM backline.ledger_day AS l
      WHERE l.day = (m.created_at AT TIME ZONE 'UTC')::date AND l.frozen_at IS NOT NULL))
ORDER BY d.last_seen_at, d.id LIMIT %(batch_limit)s::integer FOR UPDATE OF d SKIP LOCKED;

-- name: letter_count
-- The number of dead letters.
SELECT count(*)::bigint AS letters FROM backline.dead_letter;

-- name: letter_delete
-- Deletes archived dead letters, and dead messages without another dead letter; the ledger counts those as pruned.
WITH deleted AS (
    DELETE FROM backline.dead_letter WHERE id = ANY (%(ids)s::bigint[]) RETURNING id, message_id
), messages AS (
    DELETE FROM backline.message AS m
    WHERE m.state = 'dead' AND m.id IN (SELECT message_id FROM deleted) AND NOT EXISTS (
        SELECT FROM backline.dead_letter AS other
        WHERE other.message_id = m.id AND other.id <> ALL (%(ids)s::bigint[]))
    RETURNING (m.created_at AT TIME ZONE 'UTC')::date AS day, m.type
), counted AS (
    UPDATE backline.ledger AS l SET pruned = l.pruned + c.pruned
    FROM (SELECT day, type, count(*) AS pruned FROM messages GROUP BY day, type) AS c
    WHERE l.day = c.day AND l.type = c.type
)
SELECT (SELECT count(*) FROM deleted) AS letters, (SELECT count(*) FROM messages) AS messages;
