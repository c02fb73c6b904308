-- Delivery events: what providers and recipients report about sent messages.

-- name: delivery_event_insert_many
-- Stores a provider's events, each once, and applies the new ones: a hard bounce, a complaint and a STOP suppress the address; an
-- unsubscribe by the provider's link opts out of all topics. A message is identified by the number in our Message-ID, if the
-- creation time beside it matches, or else by the provider's id. Returns the new events.
WITH event AS (
    SELECT * FROM json_to_recordset(%(events)s::json) AS e (
        source_id text, channel text, event text, hard boolean, at timestamptz, recipient text, detail text, suppress text,
        provider_id text, message_id bigint, created bigint)
), added AS (
    INSERT INTO backline.delivery_event (message_id, channel, event, hard, source, source_id, provider_id, recipient, detail, at)
    SELECT m.id, event.channel, event.event, event.hard, %(source)s::text, event.source_id, event.provider_id,
        event.recipient, left(event.detail, 1000), event.at
    FROM event LEFT JOIN backline.message AS m
      ON m.id = event.message_id AND (extract(epoch FROM m.created_at) * 1000000)::bigint = event.created
    ORDER BY event.source_id
    ON CONFLICT DO NOTHING
    RETURNING source_id, message_id
)
SELECT event.source_id, added.message_id,
    CASE WHEN event.suppress IS NOT NULL THEN backline.suppress_key(event.channel, event.recipient, event.suppress, event.detail,
        NULL, %(source)s::text, added.message_id) END AS suppression,
    CASE WHEN event.event = 'unsubscribed' AND event.suppress IS NULL
        THEN backline.opt_out_key(event.channel, event.recipient, '*', %(source)s::text, added.message_id)::text END AS opted_out_all
FROM added JOIN event USING (source_id);

-- name: delivery_event_insert
-- Inserts one event.
INSERT INTO backline.delivery_event (message_id, channel, event, source, recipient, detail, at)
VALUES (%(message_id)s::bigint, %(channel)s::text, %(event)s::text, %(source)s::text, %(recipient)s::text,
    %(detail)s::text, clock_timestamp());

-- name: delivery_event_list
-- The events of one message, in order; by the provider's id where its own id was not known.
SELECT at, event, hard, source, recipient, detail, until FROM backline.delivery_event
WHERE message_id = %(id)s::bigint
   OR message_id IS NULL AND provider_id = %(provider_id)s::text AND channel = %(channel)s::text
ORDER BY at, id;
