-- What providers and recipients tell of messages after they were sent.

-- name: delivery_event_insert_many
-- Keeps what a provider has told, each event once, and acts on what is new: a hard bounce, a complaint and a STOP suppress the
-- address, leaving by the provider's own link leaves everything that can be left. A message is known by the number in our
-- Message-ID, if it was made at the time that stands beside it; others by the provider's id. Returns the events that are new.
WITH told AS (
    SELECT * FROM json_to_recordset(%(events)s::json) AS e (
        source_id text, channel text, event text, hard boolean, at timestamptz, recipient text, detail text, suppress text,
        provider_id text, message_id bigint, created bigint)
), added AS (
    INSERT INTO backline.delivery_event (message_id, channel, event, hard, source, source_id, provider_id, recipient, detail, at)
    SELECT m.id, told.channel, told.event, told.hard, %(source)s::text, told.source_id, told.provider_id,
        told.recipient, left(told.detail, 1000), told.at
    FROM told LEFT JOIN backline.message AS m
      ON m.id = told.message_id AND (extract(epoch FROM m.created_at) * 1000000)::bigint = told.created
    ORDER BY told.source_id
    ON CONFLICT DO NOTHING
    RETURNING source_id, message_id
)
SELECT told.source_id, added.message_id,
    CASE WHEN told.suppress IS NOT NULL THEN backline.suppress(told.channel, told.recipient, told.suppress, told.detail,
        source => %(source)s::text, message_id => added.message_id) END AS suppression,
    CASE WHEN told.event = 'unsubscribed' AND told.suppress IS NULL
        THEN backline.opt_out(told.channel, told.recipient, '*', %(source)s::text, added.message_id)::text END AS opted_out_all
FROM added JOIN told USING (source_id);

-- name: delivery_event_insert
-- Writes down what a recipient did with a message.
INSERT INTO backline.delivery_event (message_id, channel, event, source, recipient, detail, at)
VALUES (%(message_id)s::bigint, %(channel)s::text, %(event)s::text, %(source)s::text, %(recipient)s::text,
    %(detail)s::text, clock_timestamp());

-- name: delivery_event_list
-- What was told of one message, first to last; by the provider's id where the message was not known by its own.
SELECT at, event, hard, source, recipient, detail, until FROM backline.delivery_event
WHERE message_id = %(id)s::bigint
   OR message_id IS NULL AND provider_id = %(provider_id)s::text AND channel = %(channel)s::text
ORDER BY at, id;
