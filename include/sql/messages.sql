-- Queries about messages: one, a group, a search. Secret fields are returned by name only, never with their values.

-- name: message_get
-- One message, the number of dispatchers of its lane, and the database's clock.
SELECT m.id, m.type, m.channel, m.lane, m.priority, m.state, m.recipient, m.due_at, m.expires_at, m.attempt,
    m.max_attempts, m.rescues, m.leased_until, m.cancel_requested, m.rate_token_reserved, m.request_id, m.group_id, m.replay_of,
    m.created_at, m.finalized_at, m.error_class, m.error, m.provider_id,
    (m.payload - coalesce(t.secret_fields, '{}'))::text AS payload_json,
    ARRAY(SELECT f FROM unnest(t.secret_fields) AS f WHERE m.payload ? f) AS secret_fields_present,
    (SELECT count(*)::integer FROM backline.dispatcher AS d
     WHERE d.lane = m.lane AND d.heartbeat_at > clock_timestamp() - %(heartbeat_timeout)s::float8 * interval '1 second')
        AS dispatchers,
    clock_timestamp() AS now
FROM backline.message AS m LEFT JOIN backline.message_type AS t ON t.name = m.type
WHERE m.id = %(id)s::bigint;

-- name: message_group
-- The messages of a group. Their ids follow the group's id closely, so a short range of the primary key contains them, and they
-- need no index.
SELECT id, type, channel, lane, state, recipient, request_id, group_id, created_at, finalized_at, error_class, error
FROM backline.message
WHERE id > %(id)s::bigint AND id <= %(id)s::bigint + 100000 AND group_id = %(id)s::bigint
ORDER BY id;

-- name: message_id_since
-- The lowest id from which on all messages were created at `time` or later: ids and times grow together, so a binary search finds
-- it, with one primary key lookup per step.
WITH RECURSIVE search (low, high) AS (
    SELECT coalesce(min(id), 1), coalesce(max(id), 0) + 1 FROM backline.message
    UNION ALL
    SELECT CASE WHEN probe.created_at < %(time)s::timestamptz THEN probe.id + 1 ELSE s.low END,
        CASE WHEN probe.created_at < %(time)s::timestamptz THEN s.high ELSE (s.low + s.high) / 2 END
    FROM search AS s
    LEFT JOIN LATERAL (
        SELECT m.id, m.created_at FROM backline.message AS m
        WHERE m.id >= (s.low + s.high) / 2 ORDER BY m.id LIMIT 1) AS probe ON true
    WHERE s.low < s.high
)
SELECT max(low) AS id FROM search;

-- name: message_id_bounds
-- The ids of the oldest and of the newest message.
SELECT coalesce(min(id), 1) AS oldest, coalesce(max(id), 0) AS newest FROM backline.message;

-- name: message_search
-- Messages of a range of ids that match all given filters, newest first. `recipient` is any part of the address, in any case.
SELECT id, type, channel, lane, state, recipient, request_id, group_id, created_at, finalized_at, error_class, error
FROM backline.message
WHERE id >= %(from_id)s::bigint AND id < %(below_id)s::bigint
  AND (%(recipient)s::text IS NULL OR strpos(lower(recipient), lower(%(recipient)s::text)) > 0)
  AND (%(type)s::text IS NULL OR type = %(type)s::text)
  AND (%(state)s::backline.message_state IS NULL OR state = %(state)s::backline.message_state)
  AND (%(lane)s::text IS NULL OR lane = %(lane)s::text)
  AND (%(request_id)s::text IS NULL OR request_id = %(request_id)s::text)
ORDER BY id DESC LIMIT %(batch_limit)s::integer;

-- name: schema_version
-- The number of the latest applied migration.
SELECT coalesce(max(number), 0) AS number FROM backline.migration;

-- name: statement_timeout_set
-- Limits every later statement of this transaction to `seconds`.
SELECT set_config('statement_timeout', (%(seconds)s::float8 * 1000)::bigint::text, true);

-- name: message_lock
-- One message for an action on it, locked until the transaction ends. Its payload is returned without secret fields.
SELECT m.id, m.type, m.type_version, m.channel, m.lane, m.priority, m.state, m.recipient, m.expires_at,
    m.payload - coalesce(t.secret_fields, '{}') AS payload, coalesce(t.secret_fields, '{}') AS secret_fields
FROM backline.message AS m LEFT JOIN backline.message_type AS t ON t.name = m.type
WHERE m.id = %(id)s::bigint FOR UPDATE OF m;
