-- Who did what.

-- name: act_record
-- Writes down one act, in the transaction of the act itself.
INSERT INTO backline.audit_trail (actor, act, object, before, after, request_id)
VALUES (%(actor)s::text, %(act)s::text, %(object)s::text, %(before)s::jsonb, %(after)s::jsonb, %(request_id)s::text);

-- name: acts_on_message
-- What was done to one message, first to last. The request that sent it may have sent many: `taken` is the id that it
-- was answered, the message's or its group's.
SELECT at, actor, act FROM backline.audit_trail
WHERE object = 'message/' || %(id)s::bigint
   OR act = 'message.send' AND request_id = %(request_id)s::text
      AND %(taken)s::bigint BETWEEN (after ->> 'first')::bigint AND (after ->> 'last')::bigint
ORDER BY id;

-- name: act_search
-- Acts, newest first, below the id `cursor`, that match all filters given.
SELECT id, at, actor, act, object, before, after, request_id FROM backline.audit_trail
WHERE (%(cursor)s::bigint IS NULL OR id < %(cursor)s::bigint)
  AND (%(actor)s::text IS NULL OR actor = %(actor)s::text)
  AND (%(act)s::text IS NULL OR act = %(act)s::text)
  AND (%(object)s::text IS NULL OR object = %(object)s::text)
  AND (%(request_id)s::text IS NULL OR request_id = %(request_id)s::text)
  AND (%(since)s::timestamptz IS NULL OR at >= %(since)s::timestamptz)
  AND (%(until)s::timestamptz IS NULL OR at < %(until)s::timestamptz)
ORDER BY id DESC LIMIT %(most)s::integer;
