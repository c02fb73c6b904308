-- Dead letters: what failed for good, messages and jobs alike, until somebody has dealt with it; and alerts about it.

CREATE TABLE backline.dead_letter (
    id            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind          text NOT NULL CHECK (kind IN ('message', 'job', 'item', 'import')),
    name          text NOT NULL,                     -- the message's type, the DAG, or the DAG file that does not import
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
    certainty     smallint NOT NULL DEFAULT 2,       -- of class and cause: 0 guessed, 1 read from the log, 2 told by the failure
    attempts         integer NOT NULL,
    conf          jsonb,                             -- the run's
    log_url       text,
    failed_at     timestamptz NOT NULL,
    first_seen_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    last_seen_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    alerted_at    timestamptz,
    state         text NOT NULL DEFAULT 'open' CHECK (state IN (
        'open',       -- nobody has dealt with it
        'replayed',   -- tried again: replay_ref says as what
        'discarded',  -- given up by a person, who said why
        'resolved'    -- went away by itself: the DAG file imports again
    )),
    reason        text,
    closed_by     text,
    closed_at     timestamptz,
    replay_ref    text,                              -- the run or message that it was replayed as
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

-- Whether what is told is a later failure than the letter's: its task ran again (it was cleared), or its run ended anew.
CREATE FUNCTION backline.is_new_failure(dead_letter backline.dead_letter, attempts integer, failed_at timestamptz)
RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT attempts > dead_letter.attempts OR dead_letter.task_id = '' AND failed_at > dead_letter.failed_at
$$;

-- How far the reconciler has read.
CREATE TABLE backline.scan_cursor (
    name text PRIMARY KEY,
    at   timestamptz NOT NULL
);

-- One row for each kind of alert: who holds its lock may send, and not before next_at.
CREATE TABLE backline.alert_group (
    key       text PRIMARY KEY,
    next_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    emailed_at timestamptz,
    email_count integer NOT NULL DEFAULT 0
);

-- Runs that have not ended by their deadline.
CREATE TABLE backline.late_run (
    dag_id           text NOT NULL,
    run_id           text NOT NULL,
    deadline_seconds real NOT NULL,
    log_url          text,
    detected_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    alerted_at       timestamptz,
    PRIMARY KEY (dag_id, run_id)
);
CREATE INDEX late_run_unalerted ON backline.late_run (dag_id) WHERE alerted_at IS NULL;

-- Every death of a message, by whatever path, is one dead letter. A trigger for each statement, not for each row: that
-- one would fetch the old version of every row that is updated, claims included, while this one costs the statements
-- that finish messages one look into an index that holds only the dead.
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
CREATE TRIGGER record_dead_messages_on_update AFTER UPDATE OF finalized_at ON backline.message
    FOR EACH STATEMENT EXECUTE FUNCTION backline.record_dead_messages();
CREATE TRIGGER record_dead_messages_on_insert AFTER INSERT ON backline.message
    FOR EACH ROW WHEN (NEW.state = 'dead') EXECUTE FUNCTION backline.record_dead_messages();

-- A dead message that is tried again has been dealt with. Only a retry sets max_attempts.
CREATE FUNCTION backline.close_revived_dead_letters() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE backline.dead_letter AS d
    SET state = 'replayed', closed_at = clock_timestamp(), reason = 'tried again under its own id',
        replay_ref = 'message ' || d.message_id
    FROM backline.message AS m
    WHERE d.kind = 'message' AND d.state = 'open' AND m.id = d.message_id AND m.state <> 'dead';
    RETURN NULL;
END $$;
CREATE TRIGGER close_revived_dead_letters AFTER UPDATE OF max_attempts ON backline.message
    FOR EACH STATEMENT EXECUTE FUNCTION backline.close_revived_dead_letters();
