-- enqueue: called by the app inside its own transactions.

-- Why this payload is invalid, as "field: problem and fix", or null when it is valid.
--
-- PL/pgSQL prepares each expression that it reaches once per transaction, so a valid field leaves the loop after a few short
-- expressions.
CREATE FUNCTION backline.payload_error(fields backline.field_rule[], field_names text[], payload jsonb)
RETURNS text LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    rule  backline.field_rule;
    value jsonb;
    kind  text;
    size  integer;
BEGIN
    IF jsonb_typeof(payload) IS DISTINCT FROM 'object' THEN
        RETURN 'payload: must be a JSON object such as {"subject": "..."}';
    END IF;
    IF payload - field_names <> '{}' THEN
        RETURN (SELECT min(key) FROM jsonb_object_keys(payload - field_names) AS key)
            || ': unknown field; remove it or use one of: ' || array_to_string(field_names, ', ');
    END IF;
    FOREACH rule IN ARRAY fields LOOP
        value := payload -> rule.name;
        IF value IS NULL THEN
            IF rule.required THEN
                RETURN rule.name || ': required field is missing; add it to the payload';
            END IF;
            CONTINUE;
        END IF;
        kind := jsonb_typeof(value);
        size := CASE kind
            WHEN 'string' THEN char_length(value #>> '{}')
            WHEN 'object' THEN jsonb_array_length(jsonb_path_query_array(value, '$.*'))  -- faster than a subquery
            WHEN 'array' THEN jsonb_array_length(value)
        END;
        CONTINUE WHEN kind = rule.json_types[1] AND size BETWEEN rule.min_length AND rule.max_length AND rule.choices IS NULL
                  AND NOT rule.secret;
        IF kind = 'null' AND 'null' = ANY (rule.json_types) THEN
            CONTINUE;
        ELSIF rule.secret THEN
            IF NOT (kind = 'string' AND value #>> '{}' LIKE 'gAAAA%') AND NOT (kind = 'object' AND value ? '$ref') THEN
                RETURN rule.name || ': is secret; give Fernet text or a reference {"$ref": "name"}, never the plaintext';
            END IF;
            CONTINUE;
        END IF;
        IF NOT (kind = ANY (rule.json_types)
                OR kind = 'number' AND 'integer' = ANY (rule.json_types) AND (value)::numeric = trunc((value)::numeric)) THEN
            RETURN rule.name || ': must be ' || array_to_string(rule.json_types, ' or ') || ', not ' || kind;
        END IF;
        IF rule.choices IS NOT NULL AND NOT rule.choices @> value THEN
            RETURN rule.name || ': must be one of ' || rule.choices::text;
        END IF;
        IF size < rule.min_length THEN
            RETURN rule.name || ': too short; at least ' || rule.min_length || ', this has ' || size;
        ELSIF size > rule.max_length THEN
            RETURN rule.name || ': too long; at most ' || rule.max_length || ', this has ' || size;
        END IF;
        IF kind = 'number' AND ((value)::numeric < rule.minimum OR (value)::numeric > rule.maximum) THEN
            RETURN rule.name || ': out of range; must be between '
                || coalesce(rule.minimum::text, '-infinity') || ' and ' || coalesce(rule.maximum::text, 'infinity');
        END IF;
    END LOOP;
    RETURN NULL;
END $$;

-- The same check of one value (null: the field is missing) as one expression, which the server inlines into the calling query:
-- for many rows at once. A test compares it with payload_error.
CREATE FUNCTION backline.field_is_valid(rule backline.field_rule, value jsonb)
RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE jsonb_typeof(value)
    WHEN 'string' THEN CASE WHEN rule.secret THEN value #>> '{}' LIKE 'gAAAA%' ELSE 'string' = ANY (rule.json_types)
        AND (char_length(value #>> '{}') < rule.min_length OR char_length(value #>> '{}') > rule.max_length
             OR NOT rule.choices @> value) IS NOT TRUE END
    WHEN 'object' THEN CASE WHEN rule.secret THEN value ? '$ref' ELSE 'object' = ANY (rule.json_types)
        AND (rule.min_length > 0 AND jsonb_array_length(jsonb_path_query_array(value, '$.*')) < rule.min_length
             OR jsonb_array_length(jsonb_path_query_array(value, '$.*')) > rule.max_length
             OR NOT rule.choices @> value) IS NOT TRUE END
    WHEN 'array' THEN rule.secret IS NOT TRUE AND 'array' = ANY (rule.json_types)
        AND (jsonb_array_length(value) < rule.min_length OR jsonb_array_length(value) > rule.max_length
             OR NOT rule.choices @> value) IS NOT TRUE
    WHEN 'number' THEN rule.secret IS NOT TRUE
        AND ('number' = ANY (rule.json_types) OR 'integer' = ANY (rule.json_types) AND value::numeric = trunc(value::numeric))
        AND (value::numeric < rule.minimum OR value::numeric > rule.maximum OR NOT rule.choices @> value) IS NOT TRUE
    WHEN 'boolean' THEN rule.secret IS NOT TRUE AND 'boolean' = ANY (rule.json_types) AND (rule.choices @> value) IS NOT FALSE
    WHEN 'null' THEN 'null' = ANY (rule.json_types)
    ELSE rule.required IS NOT TRUE
    END;

-- The route of a type over another lane of its channel; raises 22023 if there is no such lane.
CREATE FUNCTION backline.route_for_lane(type text, routes backline.route[], lane text)
RETURNS backline.route LANGUAGE plpgsql STABLE AS $$
DECLARE
    route backline.route := routes[1];
BEGIN
    SELECT l.name, l.priority INTO route.lane, route.priority FROM backline.lane AS l
    WHERE l.name = route_for_lane.lane AND l.channel = route.channel AND cardinality(routes) = 1;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'backline.enqueue: %: lane: % cannot carry it; %', type, quote_literal(lane),
            CASE WHEN cardinality(routes) > 1 THEN 'leave it out: this type is sent over several channels'
            ELSE 'use one of: ' || (SELECT string_agg(l.name, ', ' ORDER BY l.name) FROM backline.lane AS l
                                    WHERE l.channel = routes[1].channel) END
            USING ERRCODE = '22023', COLUMN = 'lane';
    END IF;
    RETURN route;
END $$;

-- Why this recipient is invalid for the channel, or null. Checks the form only; the model checks the rest.
CREATE FUNCTION backline.recipient_error(channel text, recipient text)
RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE
        WHEN recipient IS NULL OR recipient = '' THEN 'recipient: is missing'
        WHEN channel = 'sms' THEN CASE
            WHEN recipient !~ '^\+[1-9][0-9]{6,14}$'
            THEN 'recipient: not a phone number in E.164; use +4915112345678, without blanks'
        END
        WHEN channel = 'push' THEN CASE
            WHEN recipient ~ '[^!-~]' OR char_length(recipient) NOT BETWEEN 6 AND 4096 OR recipient = 'user:'
            THEN 'recipient: not a device''s token; use the device''s own token, or user:17 for all devices of a person'
        END
        WHEN channel <> 'email' THEN NULL
        WHEN char_length(recipient) > 400 THEN 'recipient: longer than 400 characters'
        WHEN recipient !~ '^[^\s@<>(),;:\\"[\]]+@[^\s@<>(),;:\\"[\]]+$'
         AND recipient !~ '^[^<>[:cntrl:]]+ <[^\s@<>(),;:\\"[\]]+@[^\s@<>(),;:\\"[\]]+>$'
        THEN 'recipient: not an email address; use ann@example.com or Ann <ann@example.com>'
    END
$$;

-- The role that calls: that of SET ROLE, else the login. Inside a SECURITY DEFINER function current_user is the owner.
CREATE FUNCTION backline.calling_role() RETURNS text LANGUAGE sql STABLE
RETURN coalesce(nullif(current_setting('role'), 'none'), session_user::text);

-- What is the same when an idempotency key is repeated. Without secret fields: the Fernet text of the same secret is different
-- each time.
CREATE FUNCTION backline.content_hash(kind backline.message_type, recipient text, payload jsonb, replay_of bigint)
RETURNS bytea LANGUAGE sql STABLE
RETURN sha256(convert_to(jsonb_build_array(
    kind.name, CASE WHEN cardinality(kind.routes) > 1 THEN jsonb_strip_nulls(recipient::jsonb) ELSE to_jsonb(recipient) END,
    replay_of, payload - kind.secret_fields)::text, 'UTF8'));

-- Takes an idempotency key for `ids`, which the caller's transaction enqueues; returns null. If the key was used for the same
-- content, returns the first ids. Waits for another transaction that holds the key. Raises 23505 if it was used for other content.
--
-- A key belongs to the calling role, which no argument can change: a role cannot block another's keys. `scope` divides the keys
-- of a role that enqueues for several users.
CREATE FUNCTION backline.idempotency_claim(key text, scope text, form text, hash bytea, ids bigint[])
RETURNS bigint[] LANGUAGE plpgsql AS $$
DECLARE
    role_name text := backline.calling_role();
    now_at    timestamptz := clock_timestamp();
    earlier   backline.idempotency;
BEGIN
    IF char_length(scope) > 255 THEN
        RAISE EXCEPTION 'backline.enqueue: key_scope: longer than 255 characters' USING ERRCODE = '22023', COLUMN = 'key_scope';
    END IF;
    INSERT INTO backline.idempotency AS i (caller, scope, key, form, hash, ids, expires_at)
    VALUES (role_name, coalesce(idempotency_claim.scope, ''), idempotency_claim.key, idempotency_claim.form,
            idempotency_claim.hash, idempotency_claim.ids, now_at + interval '30 days')
    ON CONFLICT ON CONSTRAINT idempotency_pkey DO UPDATE
        SET form = excluded.form, hash = excluded.hash, ids = excluded.ids, expires_at = excluded.expires_at
        WHERE i.expires_at < now_at;
    IF FOUND THEN
        RETURN NULL;
    END IF;
    SELECT * INTO earlier FROM backline.idempotency AS i
    WHERE i.caller = role_name AND i.scope = coalesce(idempotency_claim.scope, '') AND i.key = idempotency_claim.key;
    IF NOT FOUND THEN  -- this transaction's snapshot is older than the other's commit
        RAISE EXCEPTION 'backline.enqueue: idempotency_key: another transaction used % first; run yours again', quote_literal(key)
            USING ERRCODE = '40001';
    ELSIF earlier.hash <> hash THEN
        RAISE EXCEPTION 'backline.enqueue: idempotency_key: % was used for % % with other content; use a new key for a new message',
            quote_literal(key), CASE earlier.form WHEN 'batch' THEN 'the batch that begins with id' ELSE earlier.form END,
            earlier.ids[1] USING ERRCODE = '23505', COLUMN = 'idempotency_key';
    END IF;
    RETURN earlier.ids;
END $$;

-- Enqueues one message (or one per channel, for a type of several) in the caller's transaction.
--
-- recipient: an address; for a type of several channels a JSON object by channel, {"email": "...", "sms": "..."}, where an
-- omitted channel gets nothing. due_at: the earliest time; default now. expires_at: the latest time. priority: 1 to 10; default
-- the lane's. lane: another lane of the type's channel, such as email.bulk. idempotency_key: for 30 days the same key with the same
-- type, recipient and payload (without secret fields) returns the first id; each calling role has its own keys. key_scope: the
-- user that the key belongs to, for a role that enqueues for several. Returns the message's id, or the group's for a type of several channels. Raises 22023 on invalid input
-- (the text names field and fix) and 23505 on a key reused with other content; both abort the caller's transaction.
CREATE FUNCTION backline.enqueue(
    type            text,
    recipient       text,
    payload         jsonb DEFAULT '{}',
    due_at          timestamptz DEFAULT NULL,
    priority        integer DEFAULT NULL,
    idempotency_key text DEFAULT NULL,
    expires_at      timestamptz DEFAULT NULL,
    request_id      text DEFAULT NULL,
    lane            text DEFAULT NULL,
    replay_of       bigint DEFAULT NULL,
    key_scope       text DEFAULT NULL
) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    kind    backline.message_type;
    route   backline.route;
    several boolean;
    address text := recipient;
    problem text;
    now_at  timestamptz := clock_timestamp();
    new_id  bigint;
    gid     bigint;
    result  bigint;
    earlier bigint[];
BEGIN
    SELECT * INTO kind FROM backline.message_type AS t WHERE t.name = enqueue.type;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'backline.enqueue: type: % is not a message type; use one of: %', coalesce(quote_literal(type), 'null'),
            (SELECT string_agg(t.name, ', ' ORDER BY t.name) FROM backline.message_type AS t)
            USING ERRCODE = '22023', COLUMN = 'type';
    END IF;
    several := cardinality(kind.routes) > 1;
    problem := backline.payload_error(kind.fields, kind.field_names, payload);
    IF problem IS NULL AND num_nonnulls(priority, due_at, expires_at, idempotency_key, request_id) > 0 THEN
        problem := CASE
            WHEN priority NOT BETWEEN 1 AND 10 THEN 'priority: must be between 1 (last) and 10 (first)'
            WHEN due_at NOT BETWEEN '0001-01-02' AND '9999-12-30' THEN 'due_at: must be a time between the years 1 and 9999'
            WHEN expires_at > '9999-12-30' THEN 'expires_at: must be a time before the year 10000; leave it out for never'
            WHEN due_at > expires_at THEN 'due_at: is after expires_at, so it could never be sent; give an earlier due_at or a later expires_at'
            WHEN idempotency_key = '' OR char_length(idempotency_key) > 255 THEN 'idempotency_key: must have 1 to 255 characters'
            WHEN char_length(request_id) > 255 THEN 'request_id: longer than 255 characters'
        END;
    END IF;
    IF several AND problem IS NULL AND NOT coalesce(recipient IS JSON OBJECT, false) THEN
        problem := 'recipient: ' || type || ' is sent over several channels; give a JSON object such as {"email": "ann@example.com"}';
    END IF;
    IF problem IS NOT NULL THEN
        RAISE EXCEPTION 'backline.enqueue: %: %', type, problem
                USING ERRCODE = '22023', COLUMN = split_part(problem, ':', 1);
    END IF;

    IF lane IS NOT NULL THEN
        kind.routes := ARRAY[backline.route_for_lane(type, kind.routes, lane)];
    END IF;
    FOREACH route IN ARRAY kind.routes LOOP
        IF several THEN
            address := recipient::jsonb ->> route.channel;
            CONTINUE WHEN address IS NULL;
            gid := coalesce(gid, nextval('backline.message_id'));
        END IF;
        problem := backline.recipient_error(route.channel, address);
        IF problem IS NOT NULL THEN
            RAISE EXCEPTION 'backline.enqueue: %: %', type, problem
                USING ERRCODE = '22023', COLUMN = split_part(problem, ':', 1);
        END IF;
        new_id := nextval('backline.message_id');
        IF idempotency_key IS NOT NULL AND result IS NULL THEN  -- once for all channels
            earlier := backline.idempotency_claim(
                idempotency_key, key_scope, CASE WHEN several THEN 'group' ELSE 'message' END,
                backline.content_hash(kind, recipient, payload, replay_of), ARRAY[coalesce(gid, new_id)]);
            IF earlier IS NOT NULL THEN
                RETURN earlier[1];
            END IF;
        END IF;
        -- Checked this late, so that a repeated call still gets its first id after the expiry.
        IF expires_at <= now_at THEN
            RAISE EXCEPTION 'backline.enqueue: %: expires_at: is in the past; leave it out or give a later time', type
                USING ERRCODE = '22023', COLUMN = 'expires_at';
        END IF;
        INSERT INTO backline.message (id, type, type_version, channel, lane, priority, state, recipient, payload, due_at,
                                      expires_at, max_attempts, request_id, group_id, replay_of)
        VALUES (new_id, enqueue.type, kind.version, route.channel, route.lane, coalesce(enqueue.priority, route.priority),
                CASE WHEN due_at > now_at THEN 'scheduled' ELSE 'pending' END::backline.message_state, address, payload,
                coalesce(due_at, now_at), enqueue.expires_at, route.max_attempts, enqueue.request_id, gid,
                enqueue.replay_of);
        result := coalesce(gid, new_id);
    END LOOP;
    IF result IS NULL THEN
        RAISE EXCEPTION 'backline.enqueue: %: recipient: names none of the channels of this type (%)', type,
            (SELECT string_agg(r.channel, ', ') FROM unnest(kind.routes) AS r)
            USING ERRCODE = '22023', COLUMN = 'recipient';
    END IF;
    RETURN result;
END $$;

-- Enqueues many messages of one type in the caller's transaction, set-based: the fastest way to enqueue.
--
-- recipients, payloads and, if given, idempotency_keys have the same length and belong together by position. The other arguments
-- are those of backline.enqueue and apply to all. Returns the ids in the order given. Invalid input raises as in backline.enqueue,
-- with the position, and nothing is enqueued.
CREATE FUNCTION backline.enqueue_many(
    type             text,
    recipients       text[],
    payloads         jsonb[],
    due_at           timestamptz DEFAULT NULL,
    priority         integer DEFAULT NULL,
    expires_at       timestamptz DEFAULT NULL,
    request_id       text DEFAULT NULL,
    lane             text DEFAULT NULL,
    idempotency_keys text[] DEFAULT NULL,
    replay_of        bigint DEFAULT NULL,
    key_scope        text DEFAULT NULL
) RETURNS bigint[]
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    kind   backline.message_type;
    route  backline.route;
    bad    record;
    now_at timestamptz := clock_timestamp();
    ids    bigint[];
BEGIN
    IF recipients IS NULL OR payloads IS NULL OR cardinality(recipients) <> cardinality(payloads)
       OR cardinality(idempotency_keys) <> cardinality(recipients) THEN
        RAISE EXCEPTION 'backline.enqueue_many: recipients, payloads and idempotency_keys must have one entry per message; got %, % and %',
            coalesce(cardinality(recipients), 0), coalesce(cardinality(payloads), 0), coalesce(cardinality(idempotency_keys)::text, 'none')
            USING ERRCODE = '22023', COLUMN = 'recipients';
    ELSIF cardinality(recipients) = 0 THEN
        RETURN '{}';
    END IF;
    SELECT * INTO kind FROM backline.message_type AS t WHERE t.name = enqueue_many.type;
    -- Keys and several channels need one call per row; so does an unknown type, for its error.
    IF cardinality(recipients) = 1 OR idempotency_keys IS NOT NULL OR kind.name IS NULL OR cardinality(kind.routes) > 1 THEN
        RETURN (SELECT array_agg(backline.enqueue(enqueue_many.type, r.recipient, r.payload, enqueue_many.due_at,
                    enqueue_many.priority, r.key, enqueue_many.expires_at, enqueue_many.request_id,
                    enqueue_many.lane, enqueue_many.replay_of, enqueue_many.key_scope) ORDER BY r.position)
                FROM (SELECT * FROM unnest(recipients, payloads,
                        coalesce(idempotency_keys, array_fill(NULL::text, ARRAY[cardinality(recipients)])))
                      WITH ORDINALITY AS u (recipient, payload, key, position)) AS r);
    END IF;
    route := CASE WHEN lane IS NULL THEN kind.routes[1] ELSE backline.route_for_lane(type, kind.routes, lane) END;
    SELECT u.position, coalesce(backline.payload_error(kind.fields, kind.field_names, u.payload),
                                backline.recipient_error(route.channel, u.recipient)) AS problem INTO bad
    FROM unnest(recipients, payloads) WITH ORDINALITY AS u (recipient, payload, position)
    WHERE CASE WHEN jsonb_typeof(u.payload) = 'object' THEN u.payload - kind.field_names <> '{}' ELSE true END
       OR EXISTS (SELECT FROM unnest(kind.fields) AS rule WHERE NOT backline.field_is_valid(rule, u.payload -> rule.name))
       OR backline.recipient_error(route.channel, u.recipient) IS NOT NULL
    ORDER BY u.position LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'backline.enqueue_many: %: message %: %', type, bad.position, bad.problem
            USING ERRCODE = '22023', COLUMN = split_part(bad.problem, ':', 1);
    END IF;
    SELECT CASE
        WHEN enqueue_many.priority NOT BETWEEN 1 AND 10 THEN 'priority: must be between 1 (last) and 10 (first)'
        WHEN enqueue_many.due_at NOT BETWEEN '0001-01-02' AND '9999-12-30' THEN 'due_at: must be a time between the years 1 and 9999'
        WHEN enqueue_many.expires_at > '9999-12-30' THEN 'expires_at: must be a time before the year 10000; leave it out for never'
        WHEN enqueue_many.expires_at <= now_at THEN 'expires_at: is in the past; leave it out or give a later time'
        WHEN enqueue_many.due_at > enqueue_many.expires_at THEN 'due_at: is after expires_at, so it could never be sent; give an earlier due_at or a later expires_at'
        WHEN char_length(enqueue_many.request_id) > 255 THEN 'request_id: longer than 255 characters'
    END AS problem INTO bad;
    IF bad.problem IS NOT NULL THEN
        RAISE EXCEPTION 'backline.enqueue_many: %: %', type, bad.problem
            USING ERRCODE = '22023', COLUMN = split_part(bad.problem, ':', 1);
    END IF;
    WITH new AS (
        INSERT INTO backline.message (type, type_version, channel, lane, priority, state, recipient, payload, due_at,
                                      expires_at, max_attempts, request_id, replay_of)
        SELECT enqueue_many.type, kind.version, route.channel, route.lane, coalesce(enqueue_many.priority, route.priority),
               CASE WHEN enqueue_many.due_at > now_at THEN 'scheduled' ELSE 'pending' END::backline.message_state, u.recipient, u.payload,
               coalesce(enqueue_many.due_at, now_at), enqueue_many.expires_at, route.max_attempts, enqueue_many.request_id,
               enqueue_many.replay_of
        FROM unnest(recipients, payloads) AS u (recipient, payload)
        RETURNING id)
    SELECT array_agg(id ORDER BY id) INTO ids FROM new;
    RETURN ids;
END $$;
