-- Webhook endpoints: management, secrets, failures, and replays of missed events.

-- name: endpoint_create
-- Inserts an endpoint; returns its id.
INSERT INTO backline.webhook_endpoint (url, description, event_types)
VALUES (%(url)s::text, %(description)s::text, %(event_types)s::text[])
RETURNING id;

-- name: endpoint_list
-- Every endpoint, oldest first.
SELECT e.id, e.url, e.description, e.event_types, e.state, e.disabled_reason, e.disabled_at, e.failing_since, e.last_error,
    e.created_at
FROM backline.webhook_endpoint AS e ORDER BY e.created_at, e.id;

-- name: endpoint_get
-- One endpoint.
SELECT e.id, e.url, e.description, e.event_types, e.state, e.disabled_reason, e.disabled_at, e.failing_since, e.last_error,
    e.created_at
FROM backline.webhook_endpoint AS e WHERE e.id = %(id)s::text;

-- name: endpoint_update
-- Changes the given fields; null leaves a field unchanged.
UPDATE backline.webhook_endpoint AS e
SET url = coalesce(%(url)s::text, e.url), description = coalesce(%(description)s::text, e.description),
    event_types = coalesce(%(event_types)s::text[], e.event_types)
WHERE e.id = %(id)s::text;

-- name: endpoint_disable
-- Disables an endpoint and suppresses its waiting messages. With `min_failing_seconds`, only if it has been failing for so
-- many seconds. Returns how many messages were suppressed; no row if the endpoint was not active. Waiting messages are
-- found by their states, so that the states' indexes are used.
WITH disabled AS (
    UPDATE backline.webhook_endpoint AS e
    SET state = 'disabled', disabled_reason = %(reason)s::text, disabled_at = clock_timestamp()
    WHERE e.id = %(id)s::text AND e.state = 'active'
      AND (%(min_failing_seconds)s::float8 IS NULL OR e.failing_since <= clock_timestamp() - %(min_failing_seconds)s::float8 * interval '1 second')
    RETURNING e.id
), ended AS (
    UPDATE backline.message AS m
    SET state = 'suppressed', finalized_at = clock_timestamp(),
        error = 'endpoint ' || %(id)s::text || ' was disabled: ' || %(reason)s::text
    WHERE m.ctid = ANY (ARRAY(
        SELECT w.ctid FROM backline.message AS w
        WHERE (w.state = 'scheduled' OR w.state = 'pending' AND w.rescues = 0 OR w.state = 'pending' AND w.rescues > 0)
          AND w.channel = 'webhook' AND w.recipient = %(id)s::text AND EXISTS (SELECT FROM disabled)
        FOR UPDATE OF w SKIP LOCKED))
    RETURNING m.id
)
SELECT (SELECT count(*)::integer FROM ended) AS suppressed_count FROM disabled;

-- name: endpoint_enable
-- Makes an endpoint active again and clears its failures; no row if it was not disabled.
UPDATE backline.webhook_endpoint AS e
SET state = 'active', disabled_reason = NULL, disabled_at = NULL, failing_since = NULL, last_error = NULL
WHERE e.id = %(id)s::text AND e.state = 'disabled'
RETURNING e.id;

-- name: endpoint_delete
-- Deletes an endpoint with its secrets; disable it first, which suppresses its waiting messages.
DELETE FROM backline.webhook_endpoint AS e WHERE e.id = %(id)s::text;

-- name: secret_insert
-- Inserts a secret of an endpoint.
INSERT INTO backline.webhook_secret (endpoint_id, scheme, ciphertext, public_key)
VALUES (%(id)s::text, %(scheme)s::text, %(ciphertext)s::text, %(public_key)s::text);

-- name: secret_expire
-- Lets the current secrets of an endpoint expire after so many seconds, and deletes the expired ones.
WITH forgotten AS (
    DELETE FROM backline.webhook_secret AS s
    WHERE s.endpoint_id = %(id)s::text AND s.expires_at <= clock_timestamp())
UPDATE backline.webhook_secret AS s
SET expires_at = clock_timestamp() + %(overlap_seconds)s::float8 * interval '1 second'
WHERE s.endpoint_id = %(id)s::text
  AND (s.expires_at IS NULL OR s.expires_at > clock_timestamp() + %(overlap_seconds)s::float8 * interval '1 second');

-- name: secret_list
-- The secrets in use, newest first, without their secret part.
SELECT s.endpoint_id, s.scheme, s.public_key, s.created_at, s.expires_at
FROM backline.webhook_secret AS s
WHERE s.endpoint_id = ANY (%(ids)s::text[]) AND (s.expires_at IS NULL OR s.expires_at > clock_timestamp())
ORDER BY s.endpoint_id, s.id DESC;

-- name: endpoint_get_for_delivery
-- One endpoint for a delivery, with its encrypted secrets, newest first.
SELECT e.id, e.url, e.state, e.disabled_reason,
    extract(epoch FROM clock_timestamp() - e.failing_since)::float8 AS failing_seconds,
    coalesce((SELECT array_agg(s.ciphertext ORDER BY s.id DESC) FROM backline.webhook_secret AS s
        WHERE s.endpoint_id = e.id AND (s.expires_at IS NULL OR s.expires_at > clock_timestamp())), '{}') AS ciphertexts
FROM backline.webhook_endpoint AS e WHERE e.id = %(id)s::text;

-- name: endpoint_record_failure
-- Records a failure, and its time if it is the first one. Returns for how many seconds the endpoint has been failing.
UPDATE backline.webhook_endpoint AS e
SET failing_since = coalesce(e.failing_since, clock_timestamp()), last_error = %(error)s::text
WHERE e.id = %(id)s::text AND e.state = 'active'
RETURNING extract(epoch FROM clock_timestamp() - e.failing_since)::float8 AS failing_seconds;

-- name: endpoint_list_failing
-- Those of these endpoints that have been failing for a while; a single failure does not count.
SELECT e.id FROM backline.webhook_endpoint AS e
WHERE e.id = ANY (%(ids)s::text[]) AND e.failing_since < clock_timestamp() - interval '10 seconds';

-- name: endpoint_clear_failure
-- Clears the failure of an endpoint that has accepted an event.
UPDATE backline.webhook_endpoint AS e SET failing_since = NULL, last_error = NULL
WHERE e.id = %(id)s::text AND e.failing_since IS NOT NULL;

-- name: event_has_subscriber
-- Whether an active endpoint is subscribed to any of these events.
SELECT EXISTS (
    SELECT FROM backline.webhook_endpoint AS e, unnest(%(event_types)s::text[]) AS event_type
    WHERE e.state = 'active' AND backline.webhook_event_matches(e.event_types, event_type)) AS has_subscriber;

-- name: event_replay
-- Replays events since a time to one endpoint: those that it subscribes to and that are neither delivered nor waiting, or
-- with `include_delivered` all that it subscribes to. Oldest first; one message per event, with the event's own id.
WITH event AS (
    SELECT DISTINCT ON (m.payload ->> 'event_id') m.id, m.payload, m.type_version, m.lane, m.priority, m.max_attempts
    FROM backline.message AS m
    WHERE m.channel = 'webhook' AND m.created_at >= %(since)s::timestamptz AND m.recipient IN ('*', %(id)s::text)
      AND (m.recipient = %(id)s::text AND m.group_id IS NULL AND m.replay_of IS NULL
           OR m.recipient = '*' AND backline.webhook_event_matches(%(event_types)s::text[], m.payload ->> 'event_type'))
      AND (%(include_delivered)s::boolean OR m.payload ->> 'event_id' NOT IN (
          SELECT d.payload ->> 'event_id' FROM backline.message AS d
          WHERE d.channel = 'webhook' AND d.created_at >= %(since)s::timestamptz AND d.recipient = %(id)s::text
            AND d.state IN ('sent', 'pending', 'scheduled', 'leased')))
    ORDER BY m.payload ->> 'event_id', m.id
)
INSERT INTO backline.message (type, type_version, channel, lane, priority, state, recipient, payload, due_at, max_attempts,
                              request_id, replay_of)
SELECT 'webhook', event.type_version, 'webhook', event.lane, event.priority, 'pending', %(id)s::text, event.payload, clock_timestamp(),
    event.max_attempts, %(request_id)s::text, event.id
FROM event ORDER BY event.id LIMIT %(batch_limit)s::integer
RETURNING id;

-- name: endpoint_message_get
-- The event of a webhook message, if it is for this endpoint or for all.
SELECT m.payload FROM backline.message AS m
WHERE m.id = %(message_id)s::bigint AND m.channel = 'webhook' AND m.recipient IN ('*', %(id)s::text);
