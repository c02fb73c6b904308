-- enqueue: called by the app inside its own transactions.

-- The error of a payload that is no object or has a key that is not among the names.
CREATE FUNCTION backline.unknown_field_error(payload jsonb, names text[])
RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN jsonb_typeof(payload) = 'object'
    THEN (SELECT min(key) FROM jsonb_object_keys(payload - names) AS key)
        || ': unknown field; remove it or use one of: ' || array_to_string(names, ', ')
    ELSE 'payload: must be a JSON object such as {"subject": "..."}' END;

-- The error of a field (null: missing) that breaks its rule, which is as in backline.messages.rules.
CREATE FUNCTION backline.field_error(name text, value jsonb, rule jsonb)
RETURNS text LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    kind  text := jsonb_typeof(value);
    types text[] := ARRAY(SELECT jsonb_array_elements_text(rule -> 'type'));
    size  integer := CASE kind
        WHEN 'string' THEN char_length(value #>> '{}')
        WHEN 'object' THEN jsonb_array_length(jsonb_path_query_array(value, '$.*'))
        WHEN 'array' THEN jsonb_array_length(value)
    END;
BEGIN
    RETURN name || CASE
        WHEN value IS NULL THEN ': required field is missing; add it to the payload'
        WHEN rule ? 'secret' THEN ': is secret; give Fernet text or a reference {"$ref": "name"}, never the plaintext'
        WHEN NOT (kind = ANY (types) OR kind = 'number' AND 'integer' = ANY (types) AND value::numeric = trunc(value::numeric))
        THEN ': must be ' || array_to_string(types, ' or ') || ', not ' || kind
        WHEN rule ? 'enum' THEN ': must be one of ' || (rule -> 'enum')::text
        WHEN size < (rule -> 'min_length')::integer
        THEN ': too short; at least ' || (rule ->> 'min_length') || ', this has ' || size
        WHEN size > (rule -> 'max_length')::integer
        THEN ': too long; at most ' || (rule ->> 'max_length') || ', this has ' || size
        WHEN kind = 'number' THEN ': out of range; must be between '
            || coalesce(rule ->> 'minimum', '-infinity') || ' and ' || coalesce(rule ->> 'maximum', 'infinity')
        WHEN rule ? 'any_json' THEN ': ' || (rule ->> 'any_json')
        WHEN rule -> 'example' <> 'null' THEN ': is not valid; an example: ' || left(rule ->> 'example', 200)
        ELSE ': is not valid'
    END;
END $$;

-- Whether a payload keeps a size limit: that its values at `path` have at most so many characters or members.
CREATE FUNCTION backline.is_within_limits(limits jsonpath[], maxima integer[], payload jsonb)
RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT NOT EXISTS (
        SELECT FROM unnest(limits, maxima) AS l (path, most), jsonb_path_query(payload, l.path) AS value
        WHERE l.most = 0 OR CASE jsonb_typeof(value)
            WHEN 'string' THEN char_length(value #>> '{}') > l.most
            WHEN 'object' THEN jsonb_array_length(jsonb_path_query_array(value, '$.*')) > l.most
        END)
$$;

-- Whether a payload keeps the rules of its type. One expression, which the server inlines: it would not if this were IMMUTABLE,
-- as pg_column_size is STABLE. The size is that of the uncompressed payload: || gives one.
CREATE FUNCTION backline.is_valid_payload(
    payload jsonb, field_names text[], rules jsonpath, small_size integer, max_size integer, limits jsonpath[], maxima integer[])
RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE
RETURN CASE WHEN payload @@ rules THEN
    payload - field_names = '{}'
    AND (pg_column_size(payload || '{}') < small_size OR
         (max_size IS NULL OR octet_length(payload::text) <= max_size) AND backline.is_within_limits(limits, maxima, payload))
ELSE false END;

-- Why a payload that is not valid is not, as "field: problem and fix".
CREATE FUNCTION backline.payload_error(kind backline.message_type, payload jsonb)
RETURNS text LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT CASE
        WHEN jsonb_typeof(payload) IS DISTINCT FROM 'object' OR payload - kind.field_names <> '{}'
        THEN backline.unknown_field_error(payload, kind.field_names)
        WHEN octet_length(payload::text) > kind.max_size
        THEN 'payload: is too large; at most ' || kind.max_size || ' bytes, this has ' || octet_length(payload::text)
        ELSE (
            SELECT backline.field_error(r.name, payload -> r.name, r.rule)
            FROM backline.field_rule AS r
            WHERE r.type = kind.name AND NOT (payload @@ r.path AND backline.is_within_limits(r.limits, r.maxima, payload))
            ORDER BY r.position LIMIT 1)
    END
$$;

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

-- Why this recipient is invalid for the channel, or null.
CREATE FUNCTION backline.recipient_error(channel text, recipient text)
RETURNS text LANGUAGE sql STABLE PARALLEL SAFE AS $$
    SELECT 'recipient: ' || CASE
        WHEN recipient_error.recipient IS NULL OR recipient_error.recipient = '' THEN 'is missing'
        WHEN c.name IS NULL THEN 'has no channel'
        WHEN char_length(recipient_error.recipient) > c.max_length THEN 'longer than ' || c.max_length || ' characters'
        WHEN recipient_error.recipient !~ c.recipient THEN c.problem
    END
    FROM (VALUES (true)) AS one LEFT JOIN backline.channel AS c ON c.name = recipient_error.channel
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
-- omitted channel gets nothing. due_at: the earliest time; default now. expires_at: the latest time; default by the type's
-- lifetime. priority: 1 to 10; default the lane's. lane: another lane of the type's channel, such as email.bulk.
-- idempotency_key: for 30 days the same key with the same type, recipient and payload (without secret fields) returns the first
-- id; each calling role has its own keys. key_scope: the user that the key belongs to, for a role that enqueues for several.
-- Returns the message's id, or the group's for a type of several channels. Raises 22023 on invalid input
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
    address text;
    problem text;
    now_at  timestamptz;
    new_id  bigint;
    gid     bigint;
    result  bigint;
    earlier bigint[];
BEGIN
    -- Most calls are valid and plain: one statement, because PL/pgSQL prepares each expression again in each transaction. It has
    -- no volatile function, as the planner then leaves out a node of the plan: due_at is the default.
    IF num_nonnulls(priority, due_at, idempotency_key, expires_at, request_id, lane, replay_of) = 0 THEN
        INSERT INTO backline.message (type, type_version, channel, lane, priority, state, recipient, payload, expires_at,
                                      max_attempts)
        SELECT t.name, t.version, (t.route).channel, (t.route).lane, (t.route).priority, 'pending', enqueue.recipient, enqueue.payload,
            statement_timestamp() + t.lifetime, (t.route).max_attempts
        FROM backline.message_type AS t
        WHERE t.name = enqueue.type AND (t.route).channel IS NOT NULL
          AND (char_length(enqueue.recipient) <= 64 AND enqueue.recipient ~ (t.route).recipient
               OR backline.recipient_error((t.route).channel, enqueue.recipient) IS NULL)
          AND backline.is_valid_payload(enqueue.payload, t.field_names, t.rules, t.small_size, t.max_size, t.limits, t.maxima)
        RETURNING id INTO result;
        IF FOUND THEN
            RETURN result;
        END IF;
    END IF;
    address := recipient;
    now_at := clock_timestamp();
    SELECT * INTO kind FROM backline.message_type AS t WHERE t.name = enqueue.type;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'backline.enqueue: type: % is not a message type; use one of: %', coalesce(quote_literal(type), 'null'),
            (SELECT string_agg(t.name, ', ' ORDER BY t.name) FROM backline.message_type AS t)
            USING ERRCODE = '22023', COLUMN = 'type';
    END IF;
    several := cardinality(kind.routes) > 1;
    expires_at := coalesce(expires_at, now_at + kind.lifetime);
    IF backline.is_valid_payload(payload, kind.field_names, kind.rules, kind.small_size, kind.max_size, kind.limits, kind.maxima) IS NOT TRUE THEN
        problem := coalesce(backline.payload_error(kind, payload), 'payload: is not valid');
    END IF;
    IF problem IS NULL AND num_nonnulls(priority, due_at, expires_at, idempotency_key, request_id) > 0 THEN
        problem := CASE
            WHEN priority NOT BETWEEN 1 AND 10 THEN 'priority: must be between 1 (last) and 10 (first)'
            WHEN due_at NOT BETWEEN '0001-01-02' AND '9999-12-30' THEN 'due_at: must be a time between the years 1 and 9999'
            WHEN expires_at > '9999-12-30' THEN 'expires_at: must be a time before the year 10000; leave it out for never'
            WHEN due_at > expires_at THEN 'due_at: is after expires_at, so it could never be sent; give an earlier due_at or a later expires_at'
            WHEN idempotency_key = '' OR char_length(idempotency_key) > 255 THEN 'idempotency_key: must have 1 to 255 characters'
            WHEN char_length(request_id) > 200 OR request_id !~ '^[^\x01-\x1f\x7f]+$' THEN 'request_id: must be one line of 1 to 200 characters'
        END;
    END IF;
    IF several AND problem IS NULL AND NOT coalesce(
        char_length(recipient) <= 5000 AND pg_input_is_valid(recipient, 'jsonb') AND recipient IS JSON OBJECT, false)
    THEN
        problem := 'recipient: ' || type || ' is sent over several channels; give a JSON object such as {"email": "ann@example.com"}';
    ELSIF several AND problem IS NULL THEN
        SELECT 'recipient: ' || type || ' is not sent over ' || quote_literal(min(key)) INTO problem
        FROM jsonb_object_keys(recipient::jsonb) AS key WHERE key <> ALL (SELECT r.channel FROM unnest(kind.routes) AS r);
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
            CONTINUE WHEN NOT recipient::jsonb ? route.channel;
            address := CASE jsonb_typeof(recipient::jsonb -> route.channel) WHEN 'string' THEN recipient::jsonb ->> route.channel END;
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
    expires_at := coalesce(expires_at, now_at + kind.lifetime);
    SELECT CASE
        WHEN enqueue_many.priority NOT BETWEEN 1 AND 10 THEN 'priority: must be between 1 (last) and 10 (first)'
        WHEN enqueue_many.due_at NOT BETWEEN '0001-01-02' AND '9999-12-30' THEN 'due_at: must be a time between the years 1 and 9999'
        WHEN enqueue_many.expires_at > '9999-12-30' THEN 'expires_at: must be a time before the year 10000; leave it out for never'
        WHEN enqueue_many.expires_at <= now_at THEN 'expires_at: is in the past; leave it out or give a later time'
        WHEN enqueue_many.due_at > enqueue_many.expires_at THEN 'due_at: is after expires_at, so it could never be sent; give an earlier due_at or a later expires_at'
        WHEN char_length(enqueue_many.request_id) > 200 OR enqueue_many.request_id !~ '^[^\x01-\x1f\x7f]+$' THEN 'request_id: must be one line of 1 to 200 characters'
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
        WHERE backline.is_valid_payload(u.payload, kind.field_names, kind.rules, kind.small_size, kind.max_size, kind.limits, kind.maxima)
          AND (char_length(u.recipient) <= 64 AND u.recipient ~ route.recipient
               OR backline.recipient_error(route.channel, u.recipient) IS NULL)
        RETURNING id)
    SELECT array_agg(id ORDER BY id) INTO ids FROM new;
    -- The error undoes the rows that were inserted: so one pass does, as almost all batches are valid.
    IF cardinality(ids) IS DISTINCT FROM cardinality(recipients) THEN
        SELECT u.position, coalesce(backline.payload_error(kind, u.payload),
                                    backline.recipient_error(route.channel, u.recipient), 'payload: is not valid') AS problem INTO bad
        FROM unnest(recipients, payloads) WITH ORDINALITY AS u (recipient, payload, position)
        WHERE backline.is_valid_payload(u.payload, kind.field_names, kind.rules, kind.small_size, kind.max_size, kind.limits, kind.maxima) IS NOT TRUE
           OR (char_length(u.recipient) <= 64 AND u.recipient ~ route.recipient) IS NOT TRUE
              AND backline.recipient_error(route.channel, u.recipient) IS NOT NULL
        ORDER BY u.position LIMIT 1;
        IF FOUND THEN  -- otherwise a trigger of the app's own has left rows out
            RAISE EXCEPTION 'backline.enqueue_many: %: message %: %', type, bad.position, bad.problem
                USING ERRCODE = '22023', COLUMN = split_part(bad.problem, ':', 1);
        END IF;
    END IF;
    RETURN ids;
END $$;
