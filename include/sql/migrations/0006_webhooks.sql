-- Webhooks: endpoints, their signing secrets, and the fan-out of an event to the subscribed endpoints.

CREATE SEQUENCE backline.webhook_endpoint_id AS bigint;

CREATE TABLE backline.webhook_endpoint (
    id            text PRIMARY KEY DEFAULT 'ep_' || nextval('backline.webhook_endpoint_id'),
    url           text NOT NULL,
    description   text NOT NULL DEFAULT '',
    event_types   text[] NOT NULL CHECK (cardinality(event_types) > 0),  -- "order.paid", "order.*", "*"
    state         text NOT NULL DEFAULT 'active' CHECK (state IN (
        'active',
        'disabled'   -- by a user, or because it is gone (410) or has failed for days: see disabled_reason
    )),
    disabled_reason text,
    disabled_at   timestamptz,
    failing_since timestamptz,       -- its first failure since its last success; null: it does not fail
    last_error    text,
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT webhook_endpoint_disabled CHECK ((state = 'disabled') = ((disabled_reason, disabled_at) IS NOT NULL))
);

CREATE TABLE backline.webhook_secret (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    endpoint_id text NOT NULL REFERENCES backline.webhook_endpoint ON DELETE CASCADE,
    scheme      text NOT NULL CHECK (scheme IN ('v1', 'v1a')),
    ciphertext  text NOT NULL,       -- Fernet text
    public_key  text,                -- of v1a: the receiver verifies with it
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at  timestamptz          -- null: current; set by a rotation, until when the old one signs too
);
COMMENT ON TABLE backline.webhook_secret IS 'Every secret that has not expired signs each delivery of its endpoint.';
CREATE INDEX webhook_secret_endpoint ON backline.webhook_secret (endpoint_id);

-- Whether an endpoint's filters match an event: its name, a prefix ("order.*"), or all ("*"). Job events are internal, so "*" does
-- not match them.
CREATE FUNCTION backline.webhook_event_matches(event_types text[], event_type text)
RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT EXISTS (
        SELECT FROM unnest(event_types) AS filter
        WHERE filter = '*' AND event_type NOT IN ('job.succeeded', 'job.failed') OR filter = event_type
           OR right(filter, 2) = '.*' AND starts_with(event_type, left(filter, -1)))
$$;

-- Sets the id and time that an event keeps for all its endpoints, attempts and replays. An event for all endpoints ("*") is final
-- at once: it becomes one message per subscribed endpoint, in the group of its own id.
CREATE FUNCTION backline.webhook_fan_out() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    endpoint backline.webhook_endpoint;
    subscribed integer;
BEGIN
    NEW.payload := NEW.payload || jsonb_build_object(
        'event_id', coalesce(NEW.payload ->> 'event_id',
            -- With the time, because a new database counts from 1 again.
            'evt_' || NEW.id || '_' || to_hex((extract(epoch FROM NEW.created_at) * 1000000)::bigint)),
        'occurred_at', coalesce(NEW.payload ->> 'occurred_at',
            to_char(NEW.created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"')));
    IF NEW.recipient <> '*' THEN
        SELECT * INTO endpoint FROM backline.webhook_endpoint AS e WHERE e.id = NEW.recipient;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'backline.enqueue: %: recipient: there is no webhook endpoint %; give the id of one, or * for every subscribed one',
                NEW.type, quote_literal(NEW.recipient) USING ERRCODE = '22023', COLUMN = 'recipient';
        ELSIF endpoint.state = 'disabled' THEN
            NEW.state := 'suppressed';
            NEW.finalized_at := clock_timestamp();
            NEW.error := 'endpoint ' || endpoint.id || ' is disabled: ' || endpoint.disabled_reason;
        END IF;
        RETURN NEW;
    END IF;
    INSERT INTO backline.message (type, type_version, channel, lane, priority, state, recipient, payload, due_at,
                                  expires_at, max_attempts, request_id, group_id, replay_of)
    SELECT NEW.type, NEW.type_version, NEW.channel, NEW.lane, NEW.priority, NEW.state, e.id, NEW.payload, NEW.due_at, NEW.expires_at,
        NEW.max_attempts, NEW.request_id, NEW.id, NEW.replay_of
    FROM backline.webhook_endpoint AS e
    WHERE e.state = 'active' AND backline.webhook_event_matches(e.event_types, NEW.payload ->> 'event_type')
    ORDER BY e.created_at, e.id;
    GET DIAGNOSTICS subscribed = ROW_COUNT;
    NEW.finalized_at := clock_timestamp();
    IF subscribed = 0 THEN
        NEW.state := 'suppressed';
        NEW.error := 'no active endpoint is subscribed to ' || (NEW.payload ->> 'event_type');
    ELSE
        NEW.state := 'sent';
        NEW.provider_id := subscribed || CASE subscribed WHEN 1 THEN ' endpoint' ELSE ' endpoints' END;
    END IF;
    RETURN NEW;
END $$;
-- The messages of a fan-out are in a group, and complete.
CREATE TRIGGER webhook_fan_out BEFORE INSERT ON backline.message
    FOR EACH ROW WHEN (NEW.channel = 'webhook' AND NEW.group_id IS NULL)
    EXECUTE FUNCTION backline.webhook_fan_out();
