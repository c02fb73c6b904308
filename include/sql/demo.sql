-- Statements of the demo, as an app or an operator would execute them.

-- name: message_enqueue_many
-- Enqueues many messages of one type, in its lane or another one; returns their ids in order.
SELECT unnest(backline.enqueue_many(%(type)s::text, %(recipients)s::text[], %(payloads)s::jsonb[],
    lane => %(lane)s::text)) AS id;

-- name: message_states
-- The state of each of these messages.
SELECT id, state, attempt, error_class, error FROM backline.message WHERE id = ANY (%(ids)s::bigint[]);

-- name: message_unfinished_count
-- How many of these messages are not final yet.
SELECT count(*)::integer AS unfinished FROM backline.message
WHERE id = ANY (%(ids)s::bigint[]) AND finalized_at IS NULL;

-- name: message_find_by_recipient
-- Messages to recipients that match a LIKE pattern, created at or after `since`.
SELECT id, recipient FROM backline.message
WHERE recipient LIKE %(pattern)s::text AND created_at >= %(since)s::timestamptz;

-- name: dispatcher_busiest
-- A lane's dispatchers and how many messages each has leased, the busiest first.
SELECT d.id, d.dag_run, count(m.id)::integer AS held_count
FROM backline.dispatcher AS d
LEFT JOIN backline.message AS m ON m.dispatcher = d.id AND m.state = 'leased'
WHERE d.lane = %(lane)s::text AND d.dag_run IS NOT NULL
GROUP BY d.id, d.dag_run ORDER BY held_count DESC;

-- name: message_stored_text
-- Everything that the outbox stores about one message and its attempts, as text.
SELECT m::text || coalesce(string_agg(a::text, ' '), '') AS text
FROM backline.message AS m LEFT JOIN backline.attempt AS a ON a.message_id = m.id
WHERE m.id = %(id)s::bigint GROUP BY m.id;

-- name: password_reset_create
-- Creates a user with a password reset token, valid for an hour; returns the token's id.
WITH person AS (
    INSERT INTO app.users (email, name, country) VALUES (%(email)s::text, %(user_name)s::text, 'DE') RETURNING id
)
INSERT INTO app.tokens (user_id, kind, token_hash, token_encrypted, expires_at)
SELECT person.id, 'password_reset', %(token_hash)s::bytea, %(token_encrypted)s::text, clock_timestamp() + interval '1 hour'
FROM person RETURNING id;

-- name: user_count
-- How many users the reference app has.
SELECT count(*)::integer AS users FROM app.users;

-- name: dead_letter_find
-- The dead letters of one message or run, and when their alert group was last emailed.
SELECT d.id, d.state, d.replay_ref, d.cause, d.first_seen_at, d.alerted_at, g.emailed_at,
    extract(epoch FROM d.first_seen_at - d.failed_at)::float8 AS recorded_after_seconds
FROM backline.dead_letter AS d LEFT JOIN backline.alert_group AS g ON g.key = d.alert_group
WHERE d.message_id = %(message_id)s::bigint OR d.name = %(dag_id)s::text AND d.run_id = %(run_id)s::text
ORDER BY d.id;

-- name: shop_customer_insert
-- Inserts a customer, and a product with 100 items in stock.
WITH customer AS (
    INSERT INTO app.users (email, name, country, zone, state, verified_at)
    VALUES (%(email)s::text, 'Ann', 'DE', 'Europe/Berlin', 'active', clock_timestamp())
    RETURNING id
), product AS (
    INSERT INTO app.products (sku, name, stock) VALUES (%(sku)s::text, 'Espresso cups', 100) RETURNING id
), movement AS (
    INSERT INTO app.stock_movements (product_id, reason, quantity) SELECT id, 'received', 100 FROM product
)
SELECT customer.id AS customer, product.id AS product FROM customer, product;

-- name: shop_order_insert
-- Inserts an order of two items at 24.50 EUR, placed `minutes` ago, with its card payment.
WITH placed AS (
    INSERT INTO app.orders (number, user_id, currency, net_minor, tax_minor, ship_to_country, placed_at)
    VALUES (%(number)s::text, %(customer)s::bigint, 'EUR', 4900, 931, 'DE',
        clock_timestamp() - %(minutes)s::float8 * interval '1 minute')
    RETURNING id, number, total_minor, placed_at
), line AS (
    INSERT INTO app.order_lines (order_id, number, product_id, description, quantity, unit_price_minor, tax_rate)
    SELECT id, 1, %(product)s::bigint, 'Espresso cups', 2, 2450, 1900 FROM placed
), payment AS (
    INSERT INTO app.payments (order_id, provider, idempotency_key, method_reference, amount_minor, currency, created_at)
    SELECT id, 'stripe', 'order-' || number, 'pm_card_visa', total_minor, 'EUR', placed_at FROM placed
)
SELECT id, total_minor, placed_at FROM placed;

-- name: shop_stock_reserve
-- Reserves the two items of an order.
WITH reservation AS (
    UPDATE app.products SET reserved = reserved + 2 WHERE id = %(product)s::bigint
)
UPDATE app.orders SET state = 'reserved', reserved_at = placed_at WHERE id = %(id)s::bigint RETURNING id;

-- name: shop_subscription_insert
-- Inserts a subscription to two items a month, due today.
INSERT INTO app.subscriptions (user_id, product_id, quantity, unit_price_minor, currency, anchor_day, zone, started_on, next_on)
SELECT %(customer)s::bigint, %(product)s::bigint, 2, 2450, 'EUR', extract(day FROM day), 'UTC', day, day
FROM (SELECT (now() AT TIME ZONE 'UTC')::date AS day) AS d
RETURNING id;

-- name: shop_order_status
-- The states of an order and its payment, and its invoice number.
SELECT o.state::text AS state, p.state::text AS payment, i.series || '-' || lpad(i.number::text, 6, '0') AS invoice
FROM app.orders AS o JOIN app.payments AS p ON p.order_id = o.id
LEFT JOIN app.invoices AS i ON i.order_id = o.id AND i.kind = 'invoice'
WHERE o.id = %(id)s::bigint;
