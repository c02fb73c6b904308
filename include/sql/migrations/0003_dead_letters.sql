-- Dead letters: messages, jobs and DAG files that failed permanently, until they are handled; and the alerts about them.

CREATE TABLE backline.dead_letter (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind          text NOT NULL CHECK (kind IN ('message', 'job', 'item', 'import')),
    name          text NOT NULL,                     -- the message's type, the DAG, or the DAG file
    message_id    bigint,
    run_id        text,
    task_id       text,                              -- empty: the run as a whole
    map_index     integer,
    item_key      text CHECK (char_length(item_key) <= 255),  -- of one item of a job
    item_fingerprint text,                           -- a digest of the item's data when it failed; empty: none
    bundle        text,                              -- of a DAG file
    error_hash    text,                              -- of an import error's text
    class         text NOT NULL,
    cause         text NOT NULL,
    certainty     smallint NOT NULL DEFAULT 2,       -- of class and cause: 0 inferred, 1 read from the log, 2 reported
    attempts      integer NOT NULL,
    conf          jsonb,                             -- the run's
    log_url       text,
    failed_at     timestamptz NOT NULL,
    first_seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_seen_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    alerted_at    timestamptz,
    state         text NOT NULL DEFAULT 'open' CHECK (state IN (
        'open',       -- not handled yet
        'replayed',   -- run or sent again, as replay_ref
        'discarded',  -- given up by a user, for `reason`
        'resolved'    -- the failure no longer exists
    )),
    reason        text,
    closed_by     text,
    closed_at     timestamptz,
    replay_ref    text,                              -- the run or message of the replay
    alert_group   text NOT NULL GENERATED ALWAYS AS (
        kind || ' ' || name || ' ' || coalesce(task_id, '') || ' ' || class) STORED,
    CONSTRAINT dead_letter_closed CHECK ((state = 'open') = (closed_at IS NULL)),
    CONSTRAINT dead_letter_about CHECK (CASE kind
        WHEN 'message' THEN message_id IS NOT NULL
        WHEN 'job' THEN (run_id, task_id, map_index) IS NOT NULL
        WHEN 'item' THEN (run_id, item_key, item_fingerprint) IS NOT NULL
        ELSE error_hash IS NOT NULL END)
);
COMMENT ON COLUMN backline.dead_letter.conf IS 'Holds no secret: a conf never does.';
CREATE UNIQUE INDEX dead_letter_job ON backline.dead_letter (name, run_id, task_id, map_index) WHERE kind = 'job';
CREATE UNIQUE INDEX dead_letter_item ON backline.dead_letter (name, item_key) WHERE kind = 'item';
CREATE UNIQUE INDEX dead_letter_import ON backline.dead_letter (name, error_hash) WHERE kind = 'import';
CREATE UNIQUE INDEX dead_letter_message ON backline.dead_letter (message_id, failed_at) WHERE kind = 'message';
CREATE INDEX dead_letter_message_open ON backline.dead_letter (message_id) WHERE kind = 'message' AND state = 'open';
CREATE INDEX dead_letter_seen ON backline.dead_letter (last_seen_at);
CREATE INDEX dead_letter_unalerted ON backline.dead_letter (alert_group) WHERE alerted_at IS NULL AND state = 'open';

-- Whether a report is of a later failure than the dead letter's: its task ran again (it was cleared), or its run ended again.
CREATE FUNCTION backline.is_new_failure(dead_letter backline.dead_letter, attempts integer, failed_at timestamptz)
RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT attempts > dead_letter.attempts OR dead_letter.task_id = '' AND failed_at > dead_letter.failed_at
$$;

-- How far a periodic reader has read.
CREATE TABLE backline.scan_cursor (
    name text PRIMARY KEY,
    at   timestamptz NOT NULL
);

-- One row per group of failures: the holder of its lock may send an alert, not before next_at.
CREATE TABLE backline.alert_group (
    key       text PRIMARY KEY,
    next_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    emailed_at  timestamptz,
    email_count integer NOT NULL DEFAULT 0
);

-- Runs that were unfinished at their deadline.
CREATE TABLE backline.late_run (
    dag_id           text NOT NULL,
    run_id           text NOT NULL,
    deadline_seconds real NOT NULL,
    log_url          text,
    detected_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    alerted_at       timestamptz,
    PRIMARY KEY (dag_id, run_id)
);
CREATE INDEX late_run_unalerted ON backline.late_run (dag_id) WHERE alerted_at IS NULL;

-- Each time a message becomes dead, however, there is one dead letter. A trigger per statement, because one per row would fetch
-- the old version of every updated row, claims included; this one costs the statements that finish messages one scan of an index
-- of the dead messages.
CREATE INDEX message_dead ON backline.message (finalized_at) WHERE state = 'dead';
CREATE FUNCTION backline.record_dead_messages() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO backline.dead_letter (kind, name, message_id, class, cause, attempts, failed_at)
    SELECT 'message', m.type, m.id, coalesce(m.error_class, 'unknown'),
        left(coalesce(m.error, 'no reason was given'), 4096), m.attempt, m.finalized_at
    FROM backline.message AS m
    WHERE m.state = 'dead' AND m.finalized_at >= transaction_timestamp()
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;
CREATE TRIGGER record_dead_messages AFTER UPDATE OF finalized_at ON backline.message
    FOR EACH STATEMENT EXECUTE FUNCTION backline.record_dead_messages();

-- Closes the dead letters of messages that are retried. Only a retry sets max_attempts.
CREATE FUNCTION backline.close_revived_dead_letters() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE backline.dead_letter AS d
    SET state = 'replayed', closed_at = clock_timestamp(), reason = 'retried under its own id',
        replay_ref = 'message ' || d.message_id
    FROM backline.message AS m
    WHERE d.kind = 'message' AND d.state = 'open' AND m.id = d.message_id AND m.state <> 'dead';
    RETURN NULL;
END $$;
CREATE TRIGGER close_revived_dead_letters AFTER UPDATE OF max_attempts ON backline.message
    FOR EACH STATEMENT EXECUTE FUNCTION backline.close_revived_dead_letters();
