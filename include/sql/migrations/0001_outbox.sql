-- The outbox: one row per message, its attempts, and the ledger that proves that no message is lost.

-- One channel of a message type.
CREATE TYPE backline.route AS (
    channel      text,
    lane         text,
    priority     smallint,
    max_attempts smallint,
    recipient    text         -- a regular expression for its recipients of up to 64 characters
);

CREATE TABLE backline.message_type (
    name          text PRIMARY KEY,
    version       smallint NOT NULL DEFAULT 1,        -- of its payload; copied to each new message
    field_names   text[] NOT NULL,
    rules         jsonpath NOT NULL,                  -- true for a valid payload, but for its size limits
    small_size    integer NOT NULL,                   -- a payload of fewer bytes keeps all size limits
    max_size      integer,                            -- bytes of a payload as text, or null
    limits        jsonpath[] NOT NULL,                -- of texts, objects, and values that must not be there
    maxima        integer[] NOT NULL,                 -- of their characters or members, by position in limits; 0: none
    secret_fields text[] NOT NULL,
    lifetime      interval,                           -- from acceptance to the default of expires_at; null: it never expires
    route         backline.route,                     -- of a type with one; null: it has several
    routes        backline.route[] NOT NULL
) WITH (toast_tuple_target = 8160);  -- each enqueue reads a row
COMMENT ON TABLE backline.message_type IS 'Synced from the registry by every migration; do not edit.';

-- The rules of one payload field, for errors and size limits; generated from the message type's model.
CREATE TABLE backline.field_rule (
    type     text NOT NULL,
    position smallint NOT NULL,
    name     text NOT NULL,
    rule     jsonb NOT NULL,         -- backline.messages.rules
    path     jsonpath NOT NULL,      -- true if the payload's field is valid, but for its size limits
    limits   jsonpath[] NOT NULL,    -- the field's, as in message_type
    maxima   integer[] NOT NULL,
    PRIMARY KEY (type, position)
);
COMMENT ON TABLE backline.field_rule IS 'Synced from the registry by every migration; do not edit.';

CREATE TABLE backline.channel (
    name       text PRIMARY KEY,
    recipient  text NOT NULL,        -- a regular expression for its recipients
    max_length integer NOT NULL,     -- of a recipient, in characters
    problem    text NOT NULL         -- what is wrong with another recipient
);
COMMENT ON TABLE backline.channel IS 'Synced from the channels by every migration; do not edit.';

CREATE TABLE backline.lane (
    name     text PRIMARY KEY,
    channel  text NOT NULL,
    priority smallint NOT NULL
);
COMMENT ON TABLE backline.lane IS 'Synced from backline.toml by every migration; do not edit.';

CREATE SEQUENCE backline.message_id AS bigint;
COMMENT ON SEQUENCE backline.message_id IS 'Ids of messages and of groups, which share one number range.';

-- The order matters: the states from 'sent' on are final.
CREATE TYPE backline.message_state AS ENUM (
    'scheduled',   -- due later: a delayed message or a retry
    'pending',     -- due: waits to be claimed
    'leased',      -- held by a dispatcher or a send_* run
    'sent',        -- accepted by the provider
    'suppressed',  -- the recipient is suppressed or has opted out
    'cancelled',   -- by a user or the app
    'expired',     -- its expiry passed before it was sent
    'dead'         -- failed permanently, or too often
);

-- Values that Python can hold too. Domains, because the server parses a table's constraints again for each inserting statement.
CREATE DOMAIN backline.moment AS timestamptz CHECK (value BETWEEN '0001-01-02' AND '9999-12-30');
CREATE DOMAIN backline.json_object AS jsonb CHECK (jsonb_typeof(value) = 'object');
CREATE DOMAIN backline.short_text AS text CHECK (char_length(value) <= 200);

CREATE TABLE backline.message (
    id               bigint PRIMARY KEY DEFAULT nextval('backline.message_id'),
    type             backline.short_text NOT NULL,
    channel          text NOT NULL,
    lane             text NOT NULL,
    priority         smallint NOT NULL,                 -- 1 (last) to 10 (first)
    state            backline.message_state NOT NULL,
    recipient        text NOT NULL,
    payload          backline.json_object NOT NULL,
    type_version     smallint NOT NULL DEFAULT 1,       -- the payload's version of the type
    due_at           backline.moment NOT NULL DEFAULT clock_timestamp(),
    expires_at       backline.moment,
    attempt          smallint NOT NULL DEFAULT 0,       -- attempts that ended
    max_attempts     smallint NOT NULL,
    rescues          smallint NOT NULL DEFAULT 0,       -- times that its dispatcher died
    lease_token      uuid,
    leased_until     timestamptz,
    dispatcher       bigint,                            -- holder of the lease; null: a send_* run
    cancel_requested boolean NOT NULL DEFAULT false,
    rate_token_reserved boolean NOT NULL DEFAULT false, -- a rate token is reserved for due_at
    request_id       text,
    group_id         bigint,
    campaign_id      bigint,
    replay_of        bigint,
    created_at       backline.moment NOT NULL DEFAULT clock_timestamp(),
    finalized_at     timestamptz,
    error_class      text,
    error            text,
    provider_id      text,
    CONSTRAINT message_finalized_at CHECK ((state >= 'sent') = (finalized_at IS NOT NULL))
) WITH (  -- Rows change state quickly and final ones stay: vacuum early, by number of rows and not by share.
    autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 20000,
    autovacuum_vacuum_insert_scale_factor = 0.0, autovacuum_vacuum_insert_threshold = 200000,
    autovacuum_analyze_scale_factor = 0.0, autovacuum_analyze_threshold = 20000);

-- The secret fields of a type; none of one that is no longer known.
CREATE FUNCTION backline.secret_fields(type text) RETURNS text[] LANGUAGE sql STABLE
RETURN coalesce((SELECT t.secret_fields FROM backline.message_type AS t WHERE t.name = type), '{}');

-- A claim reads only due messages. The priority is negated so that all columns ascend: then `(-priority, due_at, id) > (...)`
-- is one range of the index, and a claim can start where the last one ended.
CREATE INDEX message_claim ON backline.message (lane, (-priority), due_at, id)
    WHERE state = 'pending' AND rescues = 0;
-- Rescued messages are claimed one by one, from an index of their own.
CREATE INDEX message_claim_rescued ON backline.message (lane, priority DESC, due_at, id)
    WHERE state = 'pending' AND rescues > 0;
CREATE INDEX message_due ON backline.message (due_at) WHERE state = 'scheduled';
CREATE INDEX message_leased ON backline.message (dispatcher) WHERE state = 'leased';
CREATE INDEX message_expiry ON backline.message (expires_at)
    WHERE state IN ('scheduled', 'pending') AND expires_at IS NOT NULL;
-- Rows are in time order, so a block range index finds a day or the oldest row at almost no cost.
CREATE INDEX message_created ON backline.message USING brin (created_at)
    WITH (pages_per_range = 32, autosummarize = on);

CREATE TABLE backline.attempt (
    message_id  bigint NOT NULL,
    number      smallint NOT NULL,
    started_at  timestamptz NOT NULL,
    duration_ms real NOT NULL,
    outcome     text NOT NULL,         -- the message's state afterwards
    error_class text,
    code        text,                  -- the provider's: "250 2.0.0", "503"
    response    text,                  -- at most 4 kB; none for types with secrets
    dispatcher  bigint,
    dag_run     text
) PARTITION BY RANGE (started_at);
CREATE INDEX attempt_message ON backline.attempt (message_id);
CREATE TABLE backline.attempt_default PARTITION OF backline.attempt DEFAULT;

CREATE TABLE backline.idempotency (
    caller     text NOT NULL,          -- the role that enqueued
    scope      text NOT NULL,          -- whose key it is within the role ("http:ann"); '': the role's own
    key        text NOT NULL,
    form       text NOT NULL,          -- message, group, batch
    hash       bytea NOT NULL,         -- of the content; a batch's is made of those of its messages
    ids        bigint[] NOT NULL,      -- what was returned: the message's or group's id, or those of a batch in order
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (caller, scope, key)
);
CREATE INDEX idempotency_expiry ON backline.idempotency USING brin (expires_at);

CREATE TABLE backline.dispatcher (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    lane           text NOT NULL,
    slot           smallint NOT NULL,
    started_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    heartbeat_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    handing_over   boolean NOT NULL DEFAULT false,
    stop_requested boolean NOT NULL DEFAULT false,
    dag_run        text
);
-- A dispatcher that hands over frees its slot, so that its successor can start before it ends.
CREATE UNIQUE INDEX dispatcher_slot ON backline.dispatcher (lane, slot) WHERE NOT handing_over;

CREATE TABLE backline.rate_bucket (
    key        text PRIMARY KEY,      -- "lane:email.bulk", "domain:email.bulk:example.com"
    next_at    timestamptz NOT NULL   -- theoretical arrival time (GCRA): when the bucket would be full again
);

CREATE TABLE backline.ledger_day (
    day         date PRIMARY KEY,     -- UTC
    closing_xid xid8 NOT NULL,        -- frozen once all earlier transactions have ended
    frozen_at   timestamptz
);

CREATE TABLE backline.ledger (
    day      date NOT NULL,
    type     text NOT NULL,
    accepted bigint NOT NULL,
    pruned   bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (day, type)
);

-- Creates the attempts' partitions of `days` days from `from_day`; returns how many. A day that already has rows in the default
-- partition stays there.
CREATE FUNCTION backline.attempt_partitions_create(from_day date, days integer) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    day     date;
    name    text;
    created integer := 0;
BEGIN
    FOR day IN SELECT from_day + n FROM generate_series(0, days - 1) AS n LOOP
        name := 'attempt_' || to_char(day, 'YYYYMMDD');
        IF to_regclass('backline.' || name) IS NULL AND NOT EXISTS (
            SELECT FROM backline.attempt_default AS a
            WHERE a.started_at >= day::timestamp AT TIME ZONE 'UTC'
              AND a.started_at < (day + 1)::timestamp AT TIME ZONE 'UTC')
        THEN
            EXECUTE format(
                'CREATE TABLE backline.%I PARTITION OF backline.attempt FOR VALUES FROM (%L) TO (%L)',
                name, day::timestamp AT TIME ZONE 'UTC', (day + 1)::timestamp AT TIME ZONE 'UTC');
            created := created + 1;
        END IF;
    END LOOP;
    RETURN created;
END $$;

-- Drops the attempts' partitions of days before `before_day`, and deletes such rows of the default partition; returns how many
-- partitions.
CREATE FUNCTION backline.attempt_partitions_drop(before_day date) RETURNS integer
LANGUAGE plpgsql AS $$
DECLARE
    name    text;
    dropped integer := 0;
BEGIN
    FOR name IN
        SELECT c.relname FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'backline.attempt'::regclass AND c.relname ~ '^attempt_\d{8}$'
          AND to_date(right(c.relname, 8), 'YYYYMMDD') < before_day
    LOOP
        EXECUTE format('DROP TABLE backline.%I', name);
        dropped := dropped + 1;
    END LOOP;
    DELETE FROM backline.attempt_default WHERE started_at < before_day::timestamp AT TIME ZONE 'UTC';
    RETURN dropped;
END $$;
