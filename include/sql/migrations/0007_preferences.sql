-- Preferences: suppressions, opt-outs, quiet hours and daily limits; and delivery events.

-- The normalized form of an address: the bare email address in lower case, a phone number without spaces.
CREATE FUNCTION backline.address_key(channel text, address text)
RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE channel
    WHEN 'email' THEN lower(btrim(regexp_replace(address, '^.*<', ''), ' >'))
    WHEN 'sms' THEN regexp_replace(address, '[^+0-9]', '', 'g')
    ELSE btrim(address)
    END;

CREATE TABLE backline.suppression (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    channel    text NOT NULL,
    address    text COLLATE "C" NOT NULL CHECK (address <> ''),  -- a backline.address_key
    reason     text NOT NULL CHECK (reason IN (
        'hard_bounce',   -- the mailbox or number does not exist
        'complaint',     -- the recipient reported spam
        'unsubscribed',  -- the recipient told the provider to stop, by SMS for example
        'manual'         -- by a user or the app
    )),
    source     text NOT NULL,                        -- a provider, a user, the app's role
    detail     text,
    message_id bigint,                               -- the message that led to it
    since      timestamptz NOT NULL DEFAULT clock_timestamp(),
    until      timestamptz,                          -- null: permanent
    UNIQUE (channel, address)
);
COMMENT ON TABLE backline.suppression IS 'Addresses that get no messages.';

CREATE TABLE backline.opt_out (
    channel    text NOT NULL,
    address    text COLLATE "C" NOT NULL CHECK (address <> ''),
    topic      text NOT NULL CHECK (topic <> ''),    -- '*': all topics
    source     text NOT NULL,
    message_id bigint,
    since      timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (channel, address, topic)
);
COMMENT ON TABLE backline.opt_out IS 'Topics that recipients opted out of. Messages without a topic are not affected.';

CREATE TABLE backline.recipient_preference (
    channel     text NOT NULL,
    address     text COLLATE "C" NOT NULL CHECK (address <> ''),
    zone        text CHECK (zone IS NULL OR timezone(zone, timestamptz '2026-01-01 00:00Z') IS NOT NULL),  -- IANA
    quiet_from  time,
    quiet_until time,                                -- the same as quiet_from: no quiet hours, even if the settings have some
    per_day     smallint CHECK (per_day >= 0),       -- maximum messages a day; 0: no limit, even if the settings have one
    updated_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (channel, address),
    CONSTRAINT recipient_preference_quiet CHECK ((quiet_from IS NULL) = (quiet_until IS NULL))
);
COMMENT ON TABLE backline.recipient_preference IS 'One recipient''s preference; null means the setting''s value.';

-- The messages of a recipient with a daily limit on one local day: ids, so that a message is counted once.
CREATE TABLE backline.daily_send_count (
    channel  text NOT NULL,
    address  text COLLATE "C" NOT NULL,
    day      date NOT NULL,
    per_day  smallint NOT NULL,
    message_ids bigint[] NOT NULL,
    PRIMARY KEY (channel, address, day)
);
CREATE INDEX daily_send_count_prune ON backline.daily_send_count (day);

CREATE TABLE backline.delivery_event (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    message_id  bigint,                              -- null: known by provider_id, or not ours
    channel     text NOT NULL,
    event       text NOT NULL CHECK (event IN (
        'postponed',     -- by us: quiet hours or the daily limit
        'delivered', 'deferred', 'rejected', 'bounced', 'complained',
        'unsubscribed', 'resubscribed')),
    hard        boolean NOT NULL DEFAULT false,      -- of a bounce: permanent
    source      text NOT NULL,                       -- ses, sendgrid, mailgun, twilio, link, preferences
    source_id   text,                                -- the source's id of the event, for deduplication
    provider_id text,                                -- the provider's id of the message
    recipient   text,
    detail      text,
    at          timestamptz NOT NULL,
    until       timestamptz,                         -- of postponed
    received_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (source, source_id)
);
COMMENT ON TABLE backline.delivery_event IS 'What happened to a message besides its attempts: postponed by preferences, or reported later by providers and recipients.';
CREATE INDEX delivery_event_message ON backline.delivery_event (message_id) WHERE message_id IS NOT NULL;
CREATE INDEX delivery_event_provider ON backline.delivery_event (provider_id) WHERE message_id IS NULL;
CREATE INDEX delivery_event_received ON backline.delivery_event (received_at);

-- The time zones that Backline knows (IANA), as Python does.
CREATE TABLE backline.time_zone (name text PRIMARY KEY);
CREATE UNIQUE INDEX time_zone_lower ON backline.time_zone (lower(name));
COMMENT ON TABLE backline.time_zone IS 'Synced by every migration; do not edit.';

CREATE TABLE backline.topic (name text PRIMARY KEY);
COMMENT ON TABLE backline.topic IS 'Synced from the setting preferences.topics by every migration; do not edit.';

-- A topic, or '*' for all; raises 22023 if there is no such topic.
CREATE FUNCTION backline.parse_topic(topic text)
RETURNS text LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF (topic = '*' OR EXISTS (SELECT FROM backline.topic AS t WHERE t.name = topic)) IS NOT TRUE THEN
        RAISE EXCEPTION 'backline: topic: % is not a topic; use one of: % (preferences.topics)',
            coalesce(quote_literal(left(topic, 60)), 'null'), (SELECT string_agg(t.name, ', ' ORDER BY t.name) FROM backline.topic AS t)
            USING ERRCODE = '22023', COLUMN = 'topic';
    END IF;
    RETURN topic;
END $$;

-- The key of an address that an app gives. Raises for what HTTP refuses too, and for addresses that only Python can normalize.
CREATE FUNCTION backline.parse_address_key(channel text, address text)
RETURNS text LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    line    text := btrim(address);
    problem text := CASE
        WHEN NOT EXISTS (SELECT FROM backline.lane AS l WHERE l.channel = parse_address_key.channel)
        THEN 'channel: ' || coalesce(quote_literal(left(channel, 40)), 'null') || ' is not a channel; use one of: '
            || (SELECT string_agg(DISTINCT l.channel, ', ' ORDER BY l.channel) FROM backline.lane AS l)
        WHEN line IS NULL OR line = '' THEN 'address: is missing'
        WHEN char_length(line) > 400 OR line ~ '[[:cntrl:]]' THEN 'address: must be one line of at most 400 characters'
        WHEN channel = 'email' AND line ~ '[^ -~]' THEN 'address: write its domain in ASCII (xn--...); over HTTP any form is accepted'
        ELSE replace(backline.recipient_error(channel, line), 'recipient:', 'address:')
    END;
BEGIN
    IF problem IS NOT NULL THEN
        RAISE EXCEPTION 'backline: %', problem USING ERRCODE = '22023', COLUMN = split_part(problem, ':', 1);
    END IF;
    RETURN backline.address_key(channel, line);
END $$;

-- Suppresses an address key; see backline.suppress.
CREATE FUNCTION backline.suppress_key(
    channel text, key text, reason text, detail text, until timestamptz, source text, message_id bigint
) RETURNS bigint
LANGUAGE sql AS $$
    INSERT INTO backline.suppression AS s (channel, address, reason, source, detail, message_id, until)
    VALUES ($1, $2, $3, left($6, 255), left($4, 1000), $7, $5)
    ON CONFLICT (channel, address) DO UPDATE
    SET reason = excluded.reason, source = excluded.source, detail = excluded.detail, message_id = excluded.message_id,
        since = excluded.since, until = excluded.until
    WHERE s.until <= coalesce(excluded.until, 'infinity');
    SELECT s.id FROM backline.suppression AS s WHERE s.channel = $1 AND s.address = $2
$$;

-- Suppresses an address, permanently or until a time. Of two suppressions the longer one is kept. Returns its id.
CREATE FUNCTION backline.suppress(
    channel    text,
    address    text,
    reason     text DEFAULT 'manual',
    detail     text DEFAULT NULL,
    until      timestamptz DEFAULT NULL,
    source     text DEFAULT session_user::text,
    message_id bigint DEFAULT NULL
) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF until NOT BETWEEN '0001-01-02' AND '9999-12-30' THEN
        RAISE EXCEPTION 'backline: until: must be a time between the years 1 and 9999; leave it out for permanently'
            USING ERRCODE = '22023', COLUMN = 'until';
    ELSIF coalesce(reason NOT IN ('hard_bounce', 'complaint', 'unsubscribed', 'manual'), true) THEN
        RAISE EXCEPTION 'backline: reason: must be hard_bounce, complaint, unsubscribed or manual' USING ERRCODE = '22023', COLUMN = 'reason';
    END IF;
    RETURN backline.suppress_key($1, backline.parse_address_key($1, $2), $3, $4, $5, coalesce($6, session_user::text), $7);
END $$;

-- Opts an address key out; see backline.opt_out.
CREATE FUNCTION backline.opt_out_key(channel text, key text, topic text, source text, message_id bigint) RETURNS void
LANGUAGE sql AS $$
    INSERT INTO backline.opt_out (channel, address, topic, source, message_id) VALUES ($1, $2, $3, left($4, 255), $5)
    ON CONFLICT DO NOTHING
$$;

-- Opts a recipient out of a topic, or with '*' of all topics. Repeating it changes nothing.
CREATE FUNCTION backline.opt_out(
    channel    text,
    address    text,
    topic      text DEFAULT '*',
    source     text DEFAULT session_user::text,
    message_id bigint DEFAULT NULL
) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT backline.opt_out_key($1, backline.parse_address_key($1, $2), backline.parse_topic($3), coalesce($4, session_user::text), $5)
$$;

-- Opts an address key in; see backline.opt_in.
CREATE FUNCTION backline.opt_in_key(channel text, key text, topic text) RETURNS void
LANGUAGE sql AS $$
    DELETE FROM backline.opt_out AS o WHERE o.channel = $1 AND o.address = $2 AND ($3 = '*' OR o.topic IN ($3, '*'))
$$;

-- Opts a recipient in to a topic, or with '*' to all. Opting in to one topic also ends an opt-out of all topics ('*'), but not the
-- opt-outs of other topics by name.
CREATE FUNCTION backline.opt_in(channel text, address text, topic text DEFAULT '*')
RETURNS void LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT backline.opt_in_key($1, backline.parse_address_key($1, $2), backline.parse_topic($3))
$$;

-- Sets all of an address key's preference; see backline.set_preference.
CREATE FUNCTION backline.set_preference_key(
    channel text, key text, zone text, quiet_from time, quiet_until time, per_day integer
) RETURNS void
LANGUAGE sql AS $$
    INSERT INTO backline.recipient_preference AS p (channel, address, zone, quiet_from, quiet_until, per_day)
    -- '24:00' is a time for PostgreSQL, and the same as '00:00'.
    VALUES ($1, $2, $3, $4 + interval '0', $5 + interval '0', $6)
    ON CONFLICT (channel, address) DO UPDATE
    SET zone = excluded.zone, quiet_from = excluded.quiet_from, quiet_until = excluded.quiet_until,
        per_day = excluded.per_day, updated_at = clock_timestamp()
$$;

-- Sets all of a recipient's preference: null means the setting's value.
CREATE FUNCTION backline.set_preference(
    channel     text,
    address     text,
    zone        text DEFAULT NULL,
    quiet_from  time DEFAULT NULL,
    quiet_until time DEFAULT NULL,
    per_day     integer DEFAULT NULL
) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    key       text := backline.parse_address_key(channel, address);
    canonical text := (SELECT z.name FROM backline.time_zone AS z WHERE lower(z.name) = lower(zone));
    problem   text := CASE
        WHEN zone IS NOT NULL AND canonical IS NULL
        THEN 'zone: ' || quote_literal(left(zone, 60)) || ' is not a time zone; give one of IANA''s, such as Europe/Berlin'
        WHEN (quiet_from IS NULL) <> (quiet_until IS NULL) THEN 'quiet_until: must be given with quiet_from, or neither'
        WHEN extract(second FROM quiet_from) > 0 THEN 'quiet_from: must be hours and minutes, such as 21:00'
        WHEN extract(second FROM quiet_until) > 0 THEN 'quiet_until: must be hours and minutes, such as 07:00'
        WHEN per_day NOT BETWEEN 0 AND 1000 THEN 'per_day: must be between 0 (no limit) and 1000'
    END;
BEGIN
    IF problem IS NOT NULL THEN
        RAISE EXCEPTION 'backline: %', problem USING ERRCODE = '22023', COLUMN = split_part(problem, ':', 1);
    END IF;
    PERFORM backline.set_preference_key(channel, key, canonical, quiet_from, quiet_until, per_day);
END $$;
