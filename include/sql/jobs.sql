-- Progress and results of jobs.

-- name: progress_set
-- Notes how far a run is; keeps its result, if it has one.
INSERT INTO backline.job_result AS r (dag_id, run_id, percent, doing, expires_at)
VALUES (%(dag_id)s::text, %(run_id)s::text, %(percent)s::real, %(doing)s::text,
    clock_timestamp() + %(ttl_seconds)s::float8 * interval '1 second')
ON CONFLICT (dag_id, run_id) DO UPDATE
SET percent = excluded.percent, doing = excluded.doing, updated_at = clock_timestamp(), expires_at = excluded.expires_at;

-- name: lock_timeout_set
-- Limits how long the current transaction waits for locks.
SELECT set_config('lock_timeout', %(seconds)s::float8 * 1000 || 'ms', true);

-- name: result_set
-- Keeps a run's result; it is at 100 percent then.
INSERT INTO backline.job_result AS r (dag_id, run_id, percent, result, expires_at)
VALUES (%(dag_id)s::text, %(run_id)s::text, 100, %(result)s::jsonb,
    clock_timestamp() + %(ttl_seconds)s::float8 * interval '1 second')
ON CONFLICT (dag_id, run_id) DO UPDATE
SET percent = 100, result = excluded.result, updated_at = clock_timestamp(), expires_at = excluded.expires_at;

-- name: result_get
-- Progress and result of a run, while they are kept.
SELECT dag_id, run_id, percent, doing, result, updated_at, expires_at
FROM backline.job_result
WHERE dag_id = %(dag_id)s::text AND run_id = %(run_id)s::text AND expires_at > clock_timestamp();

-- name: result_prune
-- Forgets up to `batch_limit` results whose time is over.
DELETE FROM backline.job_result AS r USING (
    SELECT dag_id, run_id FROM backline.job_result WHERE expires_at <= statement_timestamp()
    LIMIT %(batch_limit)s::integer FOR UPDATE SKIP LOCKED) AS old
WHERE (r.dag_id, r.run_id) = (old.dag_id, old.run_id)
RETURNING 1 AS pruned;

-- name: rate_token_reserve
-- Reserves one token of a job's bucket, which gives one every `interval_seconds` seconds; returns the seconds until it comes.
INSERT INTO backline.rate_bucket AS b (key, next_at)
VALUES (%(key)s::text, clock_timestamp() + %(interval_seconds)s::float8 * interval '1 second')
ON CONFLICT (key) DO UPDATE
SET next_at = greatest(b.next_at, clock_timestamp()) + %(interval_seconds)s::float8 * interval '1 second'
RETURNING greatest(0, extract(epoch FROM next_at - clock_timestamp()) - %(interval_seconds)s::float8)::float8 AS wait_seconds;

-- name: tables_missing
-- Those of these tables, views ("app.orders") and columns ("app.orders.paid_at") that the database does not have.
SELECT t.name FROM unnest(%(names)s::text[]) AS t (name)
WHERE CASE WHEN t.name LIKE '%%.%%.%%' THEN NOT EXISTS (
        SELECT FROM pg_attribute AS a
        WHERE a.attrelid = to_regclass(regexp_replace(t.name, '[.][^.]*$', '')) AND a.attname = split_part(t.name, '.', 3)
          AND NOT a.attisdropped)
    ELSE to_regclass(t.name) IS NULL END;

-- name: late_run_insert
-- Notes once that a run has not ended by its deadline.
INSERT INTO backline.late_run (dag_id, run_id, deadline_seconds, log_url)
VALUES (%(dag_id)s::text, %(run_id)s::text, %(deadline_seconds)s::real, %(log_url)s::text)
ON CONFLICT DO NOTHING;
