-- The audit trail: who did what.

-- name: entry_insert
-- Inserts one entry, in the transaction of its action.
INSERT INTO backline.audit_trail (actor, action, target, before, after, request_id)
VALUES (%(actor)s::text, %(action)s::text, %(target)s::text, %(before)s::jsonb, %(after)s::jsonb, %(request_id)s::text);

-- name: entry_list_of_message
-- The actions on one message, oldest first. The request that sent it may have sent many: `accepted_id` is the id that the
-- request returned, the message's or its group's.
SELECT at, actor, action FROM backline.audit_trail
WHERE target = 'message/' || %(id)s::bigint
   OR action = 'message.send' AND request_id = %(request_id)s::text
      AND %(accepted_id)s::bigint BETWEEN (after ->> 'first')::bigint AND (after ->> 'last')::bigint
ORDER BY id;

-- name: entry_search
-- Entries below the id `cursor` that match all filters given, newest first.
SELECT id, at, actor, action, target, before::text AS before, after::text AS after, request_id FROM backline.audit_trail
WHERE (%(cursor)s::bigint IS NULL OR id < %(cursor)s::bigint)
  AND (%(actor)s::text IS NULL OR actor = %(actor)s::text)
  AND (%(action)s::text IS NULL OR action = %(action)s::text)
  AND (%(target)s::text IS NULL OR target = %(target)s::text)
  AND (%(request_id)s::text IS NULL OR request_id = %(request_id)s::text)
  AND (%(since)s::timestamptz IS NULL OR at >= %(since)s::timestamptz)
  AND (%(until)s::timestamptz IS NULL OR at < %(until)s::timestamptz)
ORDER BY id DESC LIMIT %(batch_limit)s::integer;
