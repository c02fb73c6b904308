-- Preferences: suppressions, opt-outs, quiet hours and daily limits.

-- name: recipient_preferences
-- The preferences of these messages' recipients, by position: suppression, opt-out of the message's topic, quiet hours and limit.
-- Without `include_unknown` only those of recipients who have any. An opt-out does not apply to a message without a topic (null).
SELECT u.position::integer AS position, clock_timestamp() AS now,
    s.reason AS suppressed, s.source AS suppressed_by, s.since AS suppressed_since,
    o.topic AS opted_out_topic, o.since AS opted_out_since,
    p.zone, p.quiet_from, p.quiet_until, p.per_day::integer AS per_day
FROM ROWS FROM (json_to_recordset(%(recipients)s::json) AS (address text, topic text)) WITH ORDINALITY AS u (address, topic, position)
LEFT JOIN backline.suppression AS s ON s.channel = %(channel)s::text AND s.address = u.address
    AND (s.until IS NULL OR s.until > clock_timestamp())
LEFT JOIN LATERAL (
    SELECT o.topic, o.since FROM backline.opt_out AS o
    WHERE o.channel = %(channel)s::text AND o.address = u.address AND o.topic IN (u.topic, '*') AND u.topic IS NOT NULL
    ORDER BY o.since LIMIT 1) AS o ON true
LEFT JOIN backline.recipient_preference AS p ON p.channel = %(channel)s::text AND p.address = u.address
WHERE %(include_unknown)s::boolean OR s.id IS NOT NULL OR o.topic IS NOT NULL OR p.address IS NOT NULL
ORDER BY u.position;

-- name: daily_send_count_claim_many
-- Adds messages to their recipients' daily counts, with the rows locked in order; returns for each day the messages within the
-- limit, including those counted before.
INSERT INTO backline.daily_send_count AS d (channel, address, day, per_day, message_ids)
SELECT %(channel)s::text, w.address, w.day, w.per_day, w.message_ids[1:w.per_day]
FROM json_to_recordset(%(requests)s::json) AS w (address text, day date, per_day smallint, message_ids bigint[])
ORDER BY w.address, w.day
ON CONFLICT (channel, address, day) DO UPDATE
SET per_day = excluded.per_day, message_ids = d.message_ids || ARRAY(
    SELECT m FROM unnest(excluded.message_ids) AS m WHERE m <> ALL (d.message_ids)
    LIMIT greatest(0, excluded.per_day - cardinality(d.message_ids)))
RETURNING d.message_ids;

-- name: message_suppress_many
-- Suppresses claimed messages for `reasons`, fenced by lease token, without an attempt; their secrets are erased. One with a
-- cancellation request is cancelled.
UPDATE backline.message AS m
SET state = CASE WHEN m.cancel_requested THEN 'cancelled' ELSE 'suppressed' END::backline.message_state,
    finalized_at = clock_timestamp(), payload = m.payload - backline.secret_fields(m.type),
    error_class = NULL, error = u.reason, lease_token = NULL, leased_until = NULL, dispatcher = NULL
FROM unnest(%(ids)s::bigint[], %(tokens)s::uuid[], %(reasons)s::text[]) AS u (id, token, reason)
WHERE m.id = u.id AND m.lease_token = u.token
RETURNING m.id;

-- name: message_defer_many
-- Defers claimed messages until their recipients accept messages again, for `reasons`, fenced by lease token, without using up an
-- attempt. One with a cancellation request is cancelled.
WITH moved AS (
    UPDATE backline.message AS m
    SET state = CASE WHEN m.cancel_requested THEN 'cancelled' ELSE 'scheduled' END::backline.message_state,
        finalized_at = CASE WHEN m.cancel_requested THEN clock_timestamp() END,
        payload = CASE WHEN m.cancel_requested THEN m.payload - backline.secret_fields(m.type) ELSE m.payload END,
        error_class = NULL, error = u.reason, due_at = u.until, lease_token = NULL, leased_until = NULL, dispatcher = NULL
    FROM unnest(%(ids)s::bigint[], %(tokens)s::uuid[], %(untils)s::timestamptz[], %(reasons)s::text[])
        AS u (id, token, until, reason)
    WHERE m.id = u.id AND m.lease_token = u.token
    RETURNING m.id, m.channel, m.state, u.until, u.reason
), events AS (
    INSERT INTO backline.delivery_event (message_id, channel, event, source, detail, at, until)
    SELECT id, channel, 'postponed', 'preferences', reason, clock_timestamp(), until FROM moved WHERE state = 'scheduled'
)
SELECT id FROM moved;

-- name: suppress
-- Suppresses an address key; see backline.suppress.
SELECT backline.suppress_key(%(channel)s::text, %(address)s::text, %(reason)s::text, %(detail)s::text, %(until)s::timestamptz,
    %(source)s::text, NULL) AS id;

-- name: suppression_get
-- One suppression.
SELECT id, channel, address, reason, source, detail, message_id, since, until FROM backline.suppression
WHERE id = %(id)s::bigint;

-- name: suppression_list
-- Current suppressions below the id `cursor` that match all given filters, newest first.
SELECT id, channel, address, reason, source, detail, message_id, since, until FROM backline.suppression
WHERE (%(cursor)s::bigint IS NULL OR id < %(cursor)s::bigint)
  AND (%(channel)s::text IS NULL OR channel = %(channel)s::text)
  AND (%(address)s::text IS NULL OR address = backline.address_key(channel, %(address)s::text))
  AND (%(reason)s::text IS NULL OR reason = %(reason)s::text)
  AND (until IS NULL OR until > clock_timestamp())
ORDER BY id DESC LIMIT %(batch_limit)s::integer;

-- name: suppression_remove
-- Deletes a suppression.
DELETE FROM backline.suppression WHERE id = %(id)s::bigint
RETURNING id, channel, address, reason, source, detail, message_id, since, until;

-- name: opt_out
-- Opts a recipient out of a topic; see backline.opt_out.
SELECT backline.opt_out_key(%(channel)s::text, %(address)s::text, %(topic)s::text, %(source)s::text, %(message_id)s::bigint);

-- name: opt_out_replace
-- Opts a recipient out of exactly these topics.
WITH opted_in AS (
    DELETE FROM backline.opt_out
    WHERE channel = %(channel)s::text AND address = %(address)s::text AND topic <> ALL (%(topics)s::text[])
)
INSERT INTO backline.opt_out (channel, address, topic, source)
SELECT %(channel)s::text, %(address)s::text, topic, %(source)s::text FROM unnest(%(topics)s::text[]) AS topic
ON CONFLICT DO NOTHING;

-- name: opt_in
-- Opts a recipient in to a topic; see backline.opt_in.
SELECT backline.opt_in_key(%(channel)s::text, %(address)s::text, %(topic)s::text);

-- name: opt_out_list
-- The topics that one recipient opted out of, oldest first.
SELECT topic, source, since FROM backline.opt_out
WHERE channel = %(channel)s::text AND address = backline.address_key(%(channel)s::text, %(address)s::text)
ORDER BY since, topic;

-- name: preference_get
-- The preference of one recipient.
SELECT zone, quiet_from, quiet_until, per_day FROM backline.recipient_preference
WHERE channel = %(channel)s::text AND address = backline.address_key(%(channel)s::text, %(address)s::text);

-- name: preference_set
-- Sets the preference of one recipient; see backline.set_preference.
SELECT backline.set_preference_key(%(channel)s::text, %(address)s::text, %(zone)s::text, %(quiet_from)s::time,
    %(quiet_until)s::time, %(per_day)s::integer);

-- name: topic_sync
-- Stores the topics of the settings, so that SQL can refuse others.
WITH gone AS (DELETE FROM backline.topic WHERE name <> ALL (%(names)s::text[]))
INSERT INTO backline.topic (name) SELECT n FROM unnest(%(names)s::text[]) AS n ON CONFLICT DO NOTHING;

-- name: time_zone_sync
-- Adds time zones that are missing.
INSERT INTO backline.time_zone (name) SELECT n FROM unnest(%(names)s::text[]) AS n ON CONFLICT DO NOTHING;
